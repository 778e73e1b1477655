"""Where a run leaves its files."""

import dataclasses
import json
import pathlib
import shutil
import tempfile

from absl import logging

from keras_hybrid import staging


def check(config):
    """Raises in one line if the workdir cannot be written, or holds another run.

    Leaves nothing.
    """
    path = pathlib.Path(config.workdir).absolute()
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
    path = pathlib.Path(config.workdir)
    if not (path / "checkpoints").exists() and not (path / "results.json").exists():
        return
    there = json.loads((path / "config.json").read_text())
    now = dataclasses.asdict(config)
    differences = [
        f"--{name}={there.get(name)} there and {now.get(name)} now"
        for name in sorted(there.keys() | now.keys() - {"workdir"})
        if there.get(name) != now.get(name)
    ]
    if differences:
        raise ValueError(
            "--workdir must be a new directory, or that of a run with the same flags. "
            f"Received: --workdir={config.workdir}, with {', '.join(differences)}"
        )


def create(config):
    """Makes the workdir with the resolved config in it; returns its `pathlib.Path`."""
    path = pathlib.Path(config.workdir)
    path.mkdir(parents=True, exist_ok=True)
    for unfinished in path.glob(f"{staging.PREFIX}*"):
        shutil.rmtree(unfinished)  # of a process that was killed
    write_json(path / "config.json", dataclasses.asdict(config))
    return path


def results_of(config):
    """The content of results.json where the run has finished already, else None."""
    path = pathlib.Path(config.workdir, "results.json")
    if not path.exists():
        return None
    _check_same_run(config)
    logging.info("This run has finished already, see %s", path)
    return json.loads(path.read_text())


def write_json(path, content):
    with staging.staged(path) as new:
        new.write_text(json.dumps(content, indent=2) + "\n")


def save_model(model, path):
    """`model.save` that leaves a whole file or none."""
    with staging.staged(path) as new:
        model.save(new.with_suffix(".keras"))
        new.with_suffix(".keras").rename(new)
