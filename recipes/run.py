"""What the recipes share: the shell entry, where a run leaves its files, devices."""

import contextlib
import dataclasses
import errno
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile
import warnings

import keras
import tensorflow as tf
from absl import app, flags, logging
from etils import eapp

import keras_hybrid
from keras_hybrid import staging
from keras_hybrid.callbacks import TransferCurves, read_rows
from keras_hybrid.multi_worker import MultiWorkerFit
from keras_hybrid.recipes.checkpoints import Checkpoints

_MISTAKES = ValueError, TypeError, OSError, flags.Error
_LOST_MACHINE = tf.errors.UnavailableError, tf.errors.AbortedError
_DISK_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


def from_shell(config_class, prepare, train):
    """Runs a recipe with the flags of the command line.

    What is wrong with a flag or a file comes out as one line, without a traceback: it is
    `prepare` that meets it. What goes wrong in training is not the user's mistake, but
    for what `_endings_in_one_line` knows.

    Args:
        config_class: Dataclass whose fields are the flags.
        prepare: Config -> what `train` takes behind the config. Creates no file.
        train: Does the work.
    """

    def parse(argv):
        with _mistakes_in_one_line():
            return eapp.make_flags_parser(config_class, allow_abbrev=False)(argv)

    def start(config):
        logging.set_verbosity(logging.INFO)
        with _endings_in_one_line(config.workdir):
            with _mistakes_in_one_line():
                prepared = None if results_of(config) else prepare(config)
            if prepared is not None:
                train(config, *prepared)

    app.run(start, flags_parser=parse)


@contextlib.contextmanager
def _mistakes_in_one_line():
    try:
        yield
    except _MISTAKES as error:
        sys.exit(f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _endings_in_one_line(workdir):
    """What ends a run that was well begun, and how to go on."""
    goes_on = f"The same command goes on from the last checkpoint in {workdir}."
    try:
        yield
    except KeyboardInterrupt:
        logging.info("Interrupted. %s", goes_on)
        sys.exit(128 + 2)  # as a shell has it for SIGINT
    except FloatingPointError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except (OSError, tf.errors.OpError) as error:
        if _is_full_disk(error):
            sys.exit(f"The disk is full. Make room on it. {goes_on}")
        if not isinstance(error, _LOST_MACHINE):
            raise
        sys.exit(f"Another machine of TF_CONFIG is gone. Start all again. {goes_on}")


def _is_full_disk(error):
    if isinstance(error, OSError):
        return error.errno in _DISK_FULL
    return any(os.strerror(number) in error.message for number in _DISK_FULL)


def refuse(flag, rule, value):
    """Raises the ValueError for a flag that breaks a rule."""
    raise ValueError(f"--{flag} must be {rule}. Received: --{flag}={value}")


def balance_of(config):
    """What `HybridTransfer` takes for --balance: "dynamic" or a number."""
    if config.balance == "dynamic":
        return config.balance
    try:
        keras_hybrid.FixedBalance(float(config.balance))
    except ValueError:
        refuse("balance", '"dynamic" or a number of at least 0', config.balance)
    return float(config.balance)


def exports_of(config):
    """The formats in --export."""
    formats = [part for part in config.export.split(",") if part]
    if not set(formats) <= {"saved_model", "tflite"}:
        refuse("export", "saved_model, tflite or both", config.export)
    return formats


def check_workdir(config):
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


def create_workdir(config):
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


def ship(config, student, directory, **kwargs):
    """Exports as --export has it; returns what results.json says of it.

    Args:
        config: The recipe's.
        student: What to export.
        directory: Where to.
        **kwargs: To `to_tflite`.
    """
    results = {}
    if "saved_model" in exports_of(config):
        report = keras_hybrid.export.to_saved_model(student, directory / "saved_model")
        results["saved_model_max_abs_error"] = report.max_abs_error
    if "tflite" in exports_of(config):
        path = directory / "student.tflite"
        report = keras_hybrid.export.to_tflite(student, path, **kwargs)
        results["tflite_bytes"] = report.size_bytes
        results["tflite_max_abs_error"] = report.max_abs_error
    return results


def fit(
    directory, model, student, batches, *, epochs, steps_per_epoch, validation_data=None
):
    """`model.fit` that goes on from the last checkpoint in `directory`.

    Args:
        directory: For the checkpoints, `metrics.csv`, `curves.png` and TensorBoard.
        model: What to train, compiled; of several machines the first writes.
        student: The network that it is about; `model` itself or within.
        batches: `batches(epochs)` returns the batches of the epochs of a `range`.
        epochs, steps_per_epoch: As in `fit`.
        validation_data: Batches to evaluate on after each epoch, or None.

    Raises:
        FloatingPointError: The loss became infinite or NaN.
    """
    writes = is_chief(model)
    replicas = model.distribute_strategy.num_replicas_in_sync
    checkpoints = Checkpoints(directory / "checkpoints", model, student, writes)
    done = checkpoints.restore()
    if done:
        logging.info("Going on after epoch %d of %d", done, epochs)
    if done < epochs:
        with quiet_about_length():
            history = model.fit(
                batches(range(done, epochs)),
                initial_epoch=done,
                epochs=epochs,
                steps_per_epoch=steps_per_epoch,
                shuffle=False,  # the batches are
                validation_data=validation_data
                and _evenly_shared(validation_data, replicas),
                callbacks=[
                    keras.callbacks.TerminateOnNaN(),
                    # Before the checkpoint: a row too many is replaced later.
                    *([TransferCurves(directory)] if writes else []),
                    checkpoints,
                ],
            )
        _check_converged(history)


def _evenly_shared(batches, replicas):
    """Without a last batch that replicas cannot share evenly, where Keras 3.15 fails."""
    return batches.filter(lambda images, *_: tf.shape(images)[0] % replicas == 0)


def training_seconds(directory):
    """Of all processes that took part in it."""
    return round(read_rows(directory / "metrics.csv")[-1]["seconds"], 1)


def _check_converged(history):
    """Raises FloatingPointError if `TerminateOnNaN` ended the fit."""
    if not math.isfinite(history.history["loss"][-1]):
        raise FloatingPointError(
            f"The loss became infinite or NaN in epoch {history.epoch[-1] + 1}. Lower "
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


def open_strategy(name):
    """The strategy in whose scope to build the model. Call it before all else.

    Args:
        name: `"none"`, `"mirrored"` for all GPUs of this machine, or `"multi_worker"`
            for those of all machines in the environment's `TF_CONFIG`.
    """
    _add_in_one_order()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    if name == "multi_worker":
        if "TF_CONFIG" not in os.environ:
            raise ValueError(
                "--strategy=multi_worker must have the machines in TF_CONFIG, such as "
                """TF_CONFIG='{"cluster": {"worker": ["one:2222", "two:2222"]}, """
                """"task": {"type": "worker", "index": 0}}'"""
            )
        logging.info("Waiting for the other machines of TF_CONFIG")
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def _add_in_one_order():
    """Makes runs on a CPU repeatable to the last bit.

    In graphs that TensorFlow 2.21 has rewritten, the order in which the gradients of the
    three paths are added depends on which is there first. GPUs need the rewriting.
    """
    if not tf.config.list_physical_devices("GPU"):
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def is_chief(model):
    """Whether this process writes: of several machines the first."""
    return model.distribute_strategy.extended.should_checkpoint


class Alone(MultiWorkerFit, keras.Model):
    """A student that trains without a teacher: `Alone(student.input, student.output)`."""
