"""Checkpoints, from which a killed run resumes."""

import contextlib
import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from keras_hybrid.recipes.engine.workdir import read_json, write_json

_SKIPPED = "skipped_images.json"


class Checkpoints(keras.callbacks.Callback):
    """Keeps a complete checkpoint of the last finished epoch at any moment.

    TensorFlow's manager names a checkpoint as the latest once it is complete, and then
    deletes the previous one. Keras's own `BackupAndRestore` writes weights and epoch one
    after the other, and leaves out the random state of dropout layers.

    Args:
        directory: Directory of the checkpoints. Partial files that a killed process left
            in it are deleted.
        model: The compiled model that `fit` trains.
        student: The network to train: `model` itself or a part of it.
        source: Source of the training images. The names of those that could not be read
            are kept too, since a process that resumes after the last epoch reads none.
        writes: Whether this process writes; of several machines only the chief does.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        model: keras.Model,
        student: keras.Model,
        source: Any,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self._directory = pathlib.Path(directory)
        self._source, self._writes = source, writes
        variables = [variable.value for variable in training_state(model, student)]
        self._checkpoint = tf.train.Checkpoint(variables=variables)
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(directory), max_to_keep=1, checkpoint_name="epoch"
        )

    def restore(self) -> int:
        """Restores the last checkpoint, if any; returns the number of finished epochs.

        Raises:
            ValueError: It does not fit the networks.
        """
        latest = self._manager.latest_checkpoint
        if self._writes:
            self._delete_unfinished(latest)
        if latest is None:
            return 0
        try:
            self._checkpoint.restore(latest).assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise ValueError(
                "--workdir must be a new directory, or that of a run with the same "
                "networks: has the file of --teacher or --student changed since? "
                f"Received: {self._directory} with weights that do not fit"
            ) from error
        return int(latest.rpartition("-")[2])

    def _delete_unfinished(self, latest):
        kept = ["checkpoint", _SKIPPED]
        if latest:
            kept.append(f"{pathlib.Path(latest).name}.")
        for path in self._directory.glob("*"):
            if not path.name.startswith(tuple(kept)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        if self._writes and math.isfinite(logs["loss"]):
            skipped = skipped_images(self._directory, self._source)
            if skipped:  # first, so that a resumed process misses none
                write_json(self._directory / _SKIPPED, skipped)
            with _quiet():
                self._manager.save(epoch + 1)


def skipped_images(directory: pathlib.Path, source: Any) -> list[str]:
    """Returns the names of the training images that a process of the run could not read.

    Args:
        directory: Directory of the checkpoints.
        source: Source of the training images.
    """
    path = directory / _SKIPPED
    earlier = read_json(path) if path.exists() else []
    return list(dict.fromkeys([*earlier, *source.skipped]))


@contextlib.contextmanager
def _quiet():
    """Silences TensorFlow's log of how it distributes the variables over files."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def training_state(model: keras.Model, student: keras.Model) -> list[keras.Variable]:
    """Returns all variables that training changes: weights, optimizer, random state."""
    with model.distribute_strategy.scope():
        model.optimizer.build(model.trainable_variables)
    metrics = {id(variable) for variable in model.metrics_variables}
    metrics |= {id(variable) for variable in student.metrics_variables}
    state = [*student.variables, *model.trainable_variables, *model.optimizer.variables]
    distinct = {id(variable): variable for variable in state}
    return [variable for key, variable in distinct.items() if key not in metrics]
