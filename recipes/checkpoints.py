"""Checkpoints of a run: a killed one goes on where it was."""

import contextlib
import math
import pathlib
import shutil

import keras
import tensorflow as tf
from absl import logging

from keras_hybrid.recipes.workdir import read_json, write_json

_SKIPPED = "skipped_images.json"


class Checkpoints(keras.callbacks.Callback):
    """Keeps the end of the last epoch, whole at any moment.

    TensorFlow's manager names a checkpoint as the latest once it is complete, and then
    deletes the one before. Keras's own `BackupAndRestore` writes weights and epoch one
    after the other, and leaves out the random state of dropout layers.

    Args:
        directory: Of the checkpoints. What a killed process left half-written in it is
            deleted.
        model: The compiled model that `fit` trains.
        student: The network that it is about; `model` itself or within.
        source: Of the training images. A process that goes on after the last epoch reads
            none of them, so that the names of those that could not be read are kept too.
        writes: Whether this process does; of several machines the chief alone.
    """

    def __init__(self, directory, model, student, source, writes=True):
        super().__init__()
        self._directory = pathlib.Path(directory)
        self._source, self._skipped_before = source, []
        self._writes = writes
        variables = [variable.value for variable in training_state(model, student)]
        self._checkpoint = tf.train.Checkpoint(variables=variables)
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(directory), max_to_keep=1, checkpoint_name="epoch"
        )

    def restore(self):
        """Puts the model where it was; returns the number of epochs done."""
        latest = self._manager.latest_checkpoint
        if self._writes:
            self._delete_unfinished(latest)
        if (self._directory / _SKIPPED).exists():
            self._skipped_before = read_json(self._directory / _SKIPPED)
        if latest is None:
            return 0
        self._checkpoint.restore(latest).assert_consumed()
        return int(latest.rpartition("-")[2])

    def _delete_unfinished(self, latest):
        kept = ["checkpoint", _SKIPPED]
        if latest:
            kept.append(f"{pathlib.Path(latest).name}.")
        for path in self._directory.glob("*"):
            if not path.name.startswith(tuple(kept)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    @property
    def skipped(self):
        """Names of the training images that could not be read, here or before."""
        return list(dict.fromkeys([*self._skipped_before, *self._source.skipped]))

    def on_epoch_end(self, epoch, logs=None):
        if self._writes and math.isfinite(logs["loss"]):
            if self.skipped:  # first: a process that goes on from there misses none
                write_json(self._directory / _SKIPPED, self.skipped)
            with _quiet():
                self._manager.save(epoch + 1)


@contextlib.contextmanager
def _quiet():
    """Without TensorFlow's log of how it spreads the variables over files."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def training_state(model, student):
    """All variables that training changes: weights, optimizer, random state."""
    with model.distribute_strategy.scope():
        model.optimizer.build(model.trainable_variables)
    metrics = {id(variable) for variable in model.metrics_variables}
    metrics |= {id(variable) for variable in student.metrics_variables}
    state = [*student.variables, *model.trainable_variables, *model.optimizer.variables]
    distinct = {id(variable): variable for variable in state}
    return [variable for key, variable in distinct.items() if key not in metrics]
