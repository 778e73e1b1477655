"""The directory of a run and the files in it."""

import dataclasses
import itertools
import json
import math
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
from absl import logging

from keras_hybrid.recipes.engine.settings import Config, refuse
from keras_hybrid.training import atomic_write


def path_of(config: Config) -> pathlib.Path:
    """Returns the path of the workdir."""
    return pathlib.Path(config.workdir).expanduser()


def student_of(config: Config) -> pathlib.Path:
    """Returns the path of the trained student."""
    return path_of(config) / "student.keras"


def check(config: Config) -> None:
    """Raises a one-line error if the workdir cannot be written or holds another run.

    It leaves no file behind.
    """
    if not config.workdir:
        refuse("workdir", "a directory", config.workdir)
    _check_writable(config)
    if config.redo and results_of(config) is None:
        rule = f"left out with --workdir={config.workdir}, where no run has finished"
        refuse("redo", rule, config.redo)
    path = path_of(config)
    if not (path / "checkpoints").exists() and not (path / "results.json").exists():
        return
    there, now = settings_there(config), dataclasses.asdict(config)
    later = {"workdir", "redo", *config.evaluation_flags, *config.export_flags}
    differences = [
        f"--{name}={there.get(name)} there and {now.get(name)} now"
        for name in sorted((there.keys() | now.keys()) - later)
        if not _are_same(there.get(name), now.get(name))
    ]
    if differences:
        raise ValueError(
            "--workdir must be a new directory, or that of a run with the same flags. "
            f"Received: --workdir={config.workdir}, with {', '.join(differences)}"
        )


def check_for_several(config: Config) -> None:
    """Raises a one-line error if the workdir cannot hold several runs."""
    _check_writable(config)
    if (path_of(config) / "checkpoints").exists():
        raise ValueError(
            "--workdir must be a new directory with a list in --method or --balance. "
            f"Received: --workdir={config.workdir}, which holds a single run"
        )


def _check_writable(config):
    path = path_of(config).absolute()
    if atomic_write.is_pattern(path):
        raise ValueError(
            "--workdir must be a path without * ? [ or \\, which TensorFlow takes for a "
            f"pattern. Received: --workdir={config.workdir}, which is {path}"
        )
    check_writable(path, "--workdir", config.workdir)


def check_writable(path: pathlib.Path, name: str, value: object) -> None:
    """Raises a one-line OSError if a directory cannot be written or created.

    Args:
        path: Absolute path of the directory.
        name: What gives the directory, such as `"--workdir"`.
        value: Its value.
    """
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not existing.is_dir():
        raise NotADirectoryError(
            f"{name} must be a directory. Received: {name}={value}, but {existing} is a "
            "file"
        )
    try:
        tempfile.TemporaryDirectory(dir=existing).cleanup()
    except OSError as error:
        raise OSError(
            f"{name} must be writable. Received: {name}={value}, but in {existing}: "
            f"{error.strerror}"
        ) from error


def settings_there(config: Config) -> dict[str, Any]:
    """Returns the flags of the run in the workdir; one newer than it has its default."""
    try:
        there = read_json(path_of(config) / "config.json")
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
    if not (there and now):
        return False  # no path, rather than the current directory
    one, other = (pathlib.Path(value).expanduser() for value in (there, now))
    return one.exists() and one.resolve() == other.resolve()


def create(config: Config) -> pathlib.Path:
    """Creates the workdir, writes the resolved config to it and returns its path."""
    path = path_of(config)
    path.mkdir(parents=True, exist_ok=True)
    for unfinished in path.glob(f"{atomic_write.PREFIX}*"):
        shutil.rmtree(unfinished)  # left by a killed process
    _write_config(config)
    return path


def _write_config(config):
    content = {**dataclasses.asdict(config), "redo": ""}
    write_json(path_of(config) / "config.json", content)


def results_of(config: Config) -> dict[str, Any] | None:
    """Returns the content of results.json if the run has already finished, else None.

    Raises:
        ValueError: The file is damaged.
    """
    path = path_of(config) / "results.json"
    if not path.exists():
        return None
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(
            f"--workdir must be a new directory, or that of a run. Received: --workdir="
            f"{config.workdir}, whose results.json cannot be read: {error}"
        ) from error


def with_earlier_exports(config: Config) -> Config:
    """Adds the formats to which a finished run was exported to those in --export."""
    formats = f"{settings_there(config)['export']},{config.export}".split(",")
    return dataclasses.replace(
        config, export=",".join(dict.fromkeys(filter(None, formats)))
    )


def parts_to_do(config: Config) -> list[str]:
    """Returns what a finished run lacks or --redo names: "evaluate", "export" or both.

    Raises:
        FileNotFoundError: A file that these parts need is missing.
        ValueError: There is no format to export to again.
    """
    there, now = settings_there(config), dataclasses.asdict(config)
    parts = set(config.redo.split(",")) - {""}
    if any(there[name] != now[name] for name in config.evaluation_flags):
        parts.add("evaluate")
    if config.export and any(there[name] != now[name] for name in config.export_flags):
        parts.add("export")
    if "export" in parts and not config.export:
        refuse("redo", "evaluate for a run without --export", config.redo)
    needed = [student_of(config)] if parts else []
    if "evaluate" in parts:
        needed.append(path_of(config) / "metrics.csv")  # has the time of training
    for file in needed:
        if not file.exists():
            raise FileNotFoundError(
                f"--workdir must hold the {file.name} of the run to "
                f"{' and '.join(sorted(parts))}. Received: --workdir={config.workdir}"
            )
    return sorted(parts)


def check_classes(config: Config, class_names: Sequence[str]) -> None:
    """Raises a one-line error if a finished run had other classes than the data."""
    there = results_of(config).get("class_names", class_names)
    pairs = enumerate(itertools.zip_longest(there, class_names))
    other = next(((i, a, b) for i, (a, b) in pairs if a != b), None)
    if other:
        number, before, now = other
        raise ValueError(
            "--data_dir must hold the classes of the run in --workdir. Received: "
            f"--data_dir={config.data_dir}, whose class {number} of {len(class_names)} "
            f"is {now}, and --workdir={config.workdir}, where class {number} of "
            f"{len(there)} is {before}"
        )


def write_results(config: Config, results: dict[str, Any]) -> dict[str, Any]:
    """Writes results.json and the config that led to it; returns its content."""
    results, directory = _strict(results), path_of(config)
    write_json(directory / "results.json", results)
    _write_config(config)
    logging.info("Results in %s: %s", directory, json.dumps(results))
    return results


def write_evaluation(config: Config, results: dict[str, Any]) -> None:
    """Writes results.json before the exports of a run, which may fail.

    The config has the exports so far, so that the same command then does the others.
    """
    flags = {"export": ""}
    if results_of(config) is not None:
        there = settings_there(config)
        flags = {name: there[name] for name in config.export_flags}
    _write_config(dataclasses.replace(config, **flags))
    write_json(path_of(config) / "results.json", results)


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
        text = "".join(f"{name}\n" for name in class_names)
        new.write_text(text, encoding="utf-8")


def save_model(model: keras.Model, path: pathlib.Path) -> None:
    """Calls `model.save` such that the file appears whole or not at all."""
    with atomic_write.staged(path) as new:
        model.save(new.with_suffix(".keras"))
        new.with_suffix(".keras").rename(new)


def write_table(
    path: pathlib.Path, rows: Mapping[str, Mapping[str, float | None]]
) -> None:
    """Writes a table of numbers as text, and logs it.

    Args:
        path: Path of the text file.
        rows: Numbers of each row, by name of the row and the column; None where there is
            none.
    """
    columns = list(next(iter(rows.values())))
    width = max(map(len, ("run", *rows)))
    lines = [" ".join([f"{'run':{width}}", *columns])]
    for name, row in rows.items():
        cells = ["-" if row[c] is None else f"{row[c]:.2f}" for c in columns]
        cells = [f"{cell:>{len(c)}}" for cell, c in zip(cells, columns)]
        lines.append(" ".join([f"{name:{width}}", *cells]))
    text = "\n".join(lines)
    with atomic_write.staged(path) as new:
        new.write_text(f"{text}\n")
    logging.info("All runs, in %s:\n%s", path, text)
