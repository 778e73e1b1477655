"""Where a run leaves its files."""

import dataclasses
import json
import math
import pathlib
import shutil
import tempfile

from absl import logging

from keras_hybrid.training import atomic_write


def path_of(config):
    """The workdir as a `pathlib.Path`."""
    return pathlib.Path(config.workdir).expanduser()


def check(config):
    """Raises in one line if the workdir cannot be written, or holds another run.

    Leaves nothing.
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
    """Those in a config.json; a flag that is newer than the file has its default."""
    try:
        there = read_json(path)
        known = {field.name for field in dataclasses.fields(config)}
        filled = type(config)(**{name: there[name] for name in known & there.keys()})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            "--workdir must be a new directory, or that of a run. Received: --workdir="
            f"{config.workdir}, whose config.json is of no use: {error}"
        ) from error
    return {**dataclasses.asdict(filled), **there}


def _are_same(there, now):
    """Whether two values are equal, or two ways to write the path of one file."""
    if there == now or not (isinstance(there, str) and isinstance(now, str)):
        return there == now
    one, other = (pathlib.Path(value).expanduser() for value in (there, now))
    return one.exists() and one.resolve() == other.resolve()


def create(config):
    """Makes the workdir with the resolved config in it; returns its `pathlib.Path`."""
    path = path_of(config)
    path.mkdir(parents=True, exist_ok=True)
    for unfinished in path.glob(f"{atomic_write.PREFIX}*"):
        shutil.rmtree(unfinished)  # of a process that was killed
    write_json(path / "config.json", dataclasses.asdict(config))
    return path


def results_of(config):
    """The content of results.json where the run has finished already, else None."""
    path = path_of(config) / "results.json"
    if not path.exists():
        return None
    _check_same_run(config)
    logging.info("This run has finished already, see %s", path)
    return read_json(path)


def write_results(directory, results):
    """Writes results.json; returns its content."""
    results = _strict(results)
    write_json(directory / "results.json", results)
    logging.info("Results in %s: %s", directory, json.dumps(results))
    return results


def write_json(path, content):
    """Writes JSON as every program reads it, with null for NaN and infinities."""
    with atomic_write.staged(path) as new:
        new.write_text(json.dumps(_strict(content), indent=2, allow_nan=False) + "\n")


def read_json(path):
    """What `write_json` wrote; NaN and infinities in a file of another are None."""
    return json.loads(path.read_text(), parse_constant=lambda _: None)


def _strict(content):
    if isinstance(content, dict):
        return {key: _strict(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_strict(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def write_labels(path, class_names):
    """Writes the name of each class, a line each, in the order of the outputs."""
    with atomic_write.staged(path) as new:
        new.write_text("".join(f"{name}\n" for name in class_names))


def save_model(model, path):
    """`model.save` that leaves a whole file or none."""
    with atomic_write.staged(path) as new:
        model.save(new.with_suffix(".keras"))
        new.with_suffix(".keras").rename(new)
