"""The directory of a run and the files in it."""

import dataclasses
import json
import math
import pathlib
import shutil
import tempfile
from collections.abc import Iterable
from typing import Any

import keras
from absl import logging

from keras_hybrid.recipes.settings import Config
from keras_hybrid.training import atomic_write


def path_of(config: Config) -> pathlib.Path:
    """Returns the path of the workdir."""
    return pathlib.Path(config.workdir).expanduser()


def check(config: Config) -> None:
    """Raises a one-line error if the workdir cannot be written or holds another run.

    It leaves no file behind.
    """
    path = path_of(config).absolute()
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not existing.is_dir():
        raise NotADirectoryError(
            f"--workdir must be a directory. Received: --workdir={config.workdir}, but "
            f"{existing} is a file"
        )
    try:
        tempfile.TemporaryDirectory(dir=existing).cleanup()
    except OSError as error:
        raise OSError(
            f"--workdir must be writable. Received: --workdir={config.workdir}, but in "
            f"{existing}: {error.strerror}"
        ) from error
    _check_same_run(config)


def _check_same_run(config):
    path = path_of(config)
    if not (path / "checkpoints").exists() and not (path / "results.json").exists():
        return
    there, now = _settings_of(path / "config.json", config), dataclasses.asdict(config)
    differences = [
        f"--{name}={there.get(name)} there and {now.get(name)} now"
        for name in sorted((there.keys() | now.keys()) - {"workdir"})
        if not _are_same(there.get(name), now.get(name))
    ]
    if differences:
        raise ValueError(
            "--workdir must be a new directory, or that of a run with the same flags. "
            f"Received: --workdir={config.workdir}, with {', '.join(differences)}"
        )


def _settings_of(path, config):
    """The flags in a config.json; a flag newer than the file has its default."""
    try:
        there = read_json(path)
        known = {field.name for field in dataclasses.fields(config)}
        filled = type(config)(**{name: there[name] for name in known & there.keys()})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            "--workdir must be a new directory, or that of a run. Received: --workdir="
            f"{config.workdir}, whose config.json cannot be used: {error}"
        ) from error
    return {**dataclasses.asdict(filled), **there}


def _are_same(there, now):
    """Whether two values are equal, or paths of the same file."""
    if there == now or not (isinstance(there, str) and isinstance(now, str)):
        return there == now
    one, other = (pathlib.Path(value).expanduser() for value in (there, now))
    return one.exists() and one.resolve() == other.resolve()


def create(config: Config) -> pathlib.Path:
    """Creates the workdir, writes the resolved config to it and returns its path."""
    path = path_of(config)
    path.mkdir(parents=True, exist_ok=True)
    for unfinished in path.glob(f"{atomic_write.PREFIX}*"):
        shutil.rmtree(unfinished)  # left by a killed process
    write_json(path / "config.json", dataclasses.asdict(config))
    return path


def results_of(config: Config) -> dict[str, Any] | None:
    """Returns the content of results.json if the run has already finished, else None."""
    path = path_of(config) / "results.json"
    if not path.exists():
        return None
    _check_same_run(config)
    logging.info("This run has already finished, see %s", path)
    return read_json(path)


def write_results(directory: pathlib.Path, results: dict[str, Any]) -> dict[str, Any]:
    """Writes results.json and returns its content."""
    results = _strict(results)
    write_json(directory / "results.json", results)
    logging.info("Results in %s: %s", directory, json.dumps(results))
    return results


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes JSON that every program can read, with null for NaN and infinities."""
    with atomic_write.staged(path) as new:
        new.write_text(json.dumps(_strict(content), indent=2, allow_nan=False) + "\n")


def read_json(path: pathlib.Path) -> Any:
    """Returns the content of a JSON file, with None for NaN and infinities."""
    return json.loads(path.read_text(), parse_constant=lambda _: None)


def _strict(content):
    if isinstance(content, dict):
        return {key: _strict(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_strict(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def write_labels(path: pathlib.Path, class_names: Iterable[str]) -> None:
    """Writes the class names, one per line, in the order of the outputs."""
    with atomic_write.staged(path) as new:
        new.write_text("".join(f"{name}\n" for name in class_names))


def save_model(model: keras.Model, path: pathlib.Path) -> None:
    """Calls `model.save` such that the file appears whole or not at all."""
    with atomic_write.staged(path) as new:
        model.save(new.with_suffix(".keras"))
        new.with_suffix(".keras").rename(new)
