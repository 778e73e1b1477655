"""What the recipes share: the shell entry, where a run leaves its files, devices."""

import contextlib
import dataclasses
import json
import math
import pathlib
import sys
import tempfile
import warnings

import tensorflow as tf
from absl import app, flags, logging
from etils import eapp

from keras_hybrid.export.staging import staged

_MISTAKES = ValueError, TypeError, OSError, flags.Error


def from_shell(config_class, prepare, train):
    """Runs a recipe with the flags of the command line.

    What is wrong with a flag or a file comes out as one line, without a traceback: it is
    `prepare` that meets it. What goes wrong in training is not the user's mistake, but
    for a loss that explodes.

    Args:
        config_class: Dataclass whose fields are the flags.
        prepare: Config -> what `train` takes behind the config. Creates no file.
        train: Does the work.
    """

    def parse(argv):
        with _mistakes_in_one_line(*_MISTAKES):
            return eapp.make_flags_parser(config_class, allow_abbrev=False)(argv)

    def start(config):
        logging.set_verbosity(logging.INFO)
        with _mistakes_in_one_line(*_MISTAKES):
            prepared = prepare(config)
        with _mistakes_in_one_line(FloatingPointError):
            train(config, *prepared)

    app.run(start, flags_parser=parse)


@contextlib.contextmanager
def _mistakes_in_one_line(*kinds):
    try:
        yield
    except kinds as error:
        sys.exit(f"{type(error).__name__}: {error}")


def refuse(flag, rule, value):
    """Raises the ValueError for a flag that breaks a rule."""
    raise ValueError(f"--{flag} must be {rule}. Received: --{flag}={value}")


def check_workdir(workdir):
    """Raises OSError in one line if `workdir` cannot be written; leaves nothing."""
    path = pathlib.Path(workdir).absolute()
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not existing.is_dir():
        raise NotADirectoryError(
            f"--workdir must be a directory. Received: --workdir={workdir}, but "
            f"{existing} is a file"
        )
    try:
        tempfile.TemporaryDirectory(dir=existing).cleanup()
    except OSError as error:
        raise OSError(
            f"--workdir must be writable. Received: --workdir={workdir}, but in "
            f"{existing}: {error.strerror}"
        ) from error


def create_workdir(workdir, config):
    """Makes `workdir` with the resolved config in it; returns its `pathlib.Path`."""
    path = pathlib.Path(workdir)
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", dataclasses.asdict(config))
    return path


def write_json(path, content):
    with staged(path) as new:
        new.write_text(json.dumps(content, indent=2) + "\n")


def save_model(model, path):
    """`model.save` that leaves a whole file or none."""
    with staged(path) as new:
        model.save(new.with_suffix(".keras"))
        new.with_suffix(".keras").rename(new)


def check_converged(history):
    """Raises FloatingPointError if `TerminateOnNaN` ended the fit."""
    losses = history.history["loss"]
    if not math.isfinite(losses[-1]):
        raise FloatingPointError(
            f"The loss became infinite or NaN in epoch {len(losses)}. Lower "
            "--learning_rate, or try --balance=dynamic."
        )


@contextlib.contextmanager
def quiet_about_length():
    """Without Keras's "ran out of data" after each pass through data of unknown length.

    How many photographs can be read is known only at the end.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data")
        yield


def strategy_scope(strategy):
    """The scope to build the model in: all GPUs for `"mirrored"`."""
    if strategy == "mirrored":
        return tf.distribute.MirroredStrategy().scope()
    return contextlib.nullcontext()
