"""A run: training that goes on, exports."""

import contextlib
import math
import warnings

import keras
import tensorflow as tf
from absl import logging

import keras_hybrid
from keras_hybrid import baselines
from keras_hybrid.callbacks import TransferCurves, plot, read_rows
from keras_hybrid.hybrid import graph as graph_lib
from keras_hybrid.recipes import settings
from keras_hybrid.recipes.checkpoints import Checkpoints
from keras_hybrid.training.gradient_step import GradientStep
from keras_hybrid.training.multi_worker import MultiWorkerFit


def ship(config, student, directory, **kwargs):
    """Exports as --export has it; returns what results.json says of it.

    Args:
        config: The recipe's.
        student: What to export.
        directory: Where to.
        **kwargs: To `to_tflite`.
    """
    results = {}
    if "saved_model" in settings.exports_of(config):
        report = keras_hybrid.export.to_saved_model(student, directory / "saved_model")
        results["saved_model_max_abs_error"] = report.max_abs_error
    if "tflite" in settings.exports_of(config):
        path = directory / "student.tflite"
        report = keras_hybrid.export.to_tflite(student, path, **kwargs)
        results["tflite_bytes"] = report.size_bytes
        results["tflite_max_abs_error"] = report.max_abs_error
    return results


def fit(
    directory,
    model,
    student,
    batches,
    *,
    source,
    epochs,
    steps_per_epoch,
    validation_data=None,
    names_of=None,
):
    """`model.fit` that goes on from the last checkpoint in `directory`.

    Args:
        directory: For the checkpoints, `metrics.csv`, `curves.png` and TensorBoard.
        model: What to train, compiled; of several machines the first writes.
        student: The network that it is about; `model` itself or within.
        batches: `batches(epochs, context)` returns those of the epochs of a `range`; a
            `tf.distribute.InputContext` says which share of them, by default all.
        source: Of the images in them.
        epochs, steps_per_epoch: As in `fit`.
        validation_data: Batches to evaluate on after each epoch, or None.
        names_of: From the targets of a batch to the names of its images, or None.

    Returns:
        Names of the training images that were skipped, by earlier processes too.

    Raises:
        FloatingPointError: The loss became infinite or NaN; given `names_of`, the message
            names the batch's images.
    """
    writes = is_chief(model)
    strategy = model.distribute_strategy
    checkpoints = Checkpoints(directory / "checkpoints", model, student, source, writes)
    done = checkpoints.restore()
    if done:
        logging.info("Going on after epoch %d of %d", done, epochs)
    if done < epochs:
        end = StopAtNaN()
        with quiet_about_length():
            model.fit(
                strategy.distribute_datasets_from_function(
                    lambda context: batches(range(done, epochs), context)
                ),
                initial_epoch=done,
                epochs=epochs,
                steps_per_epoch=steps_per_epoch,
                shuffle=False,  # the batches are
                validation_data=validation_data
                and _evenly_shared(validation_data, strategy.num_replicas_in_sync),
                callbacks=[
                    end,
                    # Before the checkpoint: a row too many is replaced later.
                    *([TransferCurves(directory)] if writes else []),
                    checkpoints,
                ],
            )
        if end.at:
            raise FloatingPointError(_diverged(*end.at, batches, names_of))
    elif writes:  # The process may have ended before it drew them.
        plot(read_rows(directory / "metrics.csv"), directory / "curves.png")
    return checkpoints.skipped


class StopAtNaN(keras.callbacks.TerminateOnNaN):
    """Ends `fit` when the loss is infinite or NaN; `at` is then (epoch, step)."""

    def __init__(self):
        super().__init__()
        self.at = None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_batch_end(self, batch, logs=None):
        super().on_batch_end(batch, logs)
        if self.at is None and not math.isfinite(logs["loss"]):
            self.at = self._epoch, batch


def _evenly_shared(batches, replicas):
    """Without a last batch that replicas cannot share evenly, where Keras 3.15 fails."""
    return batches.filter(lambda images, *_: tf.shape(images)[0] % replicas == 0)


def training_seconds(directory):
    """Of all processes that took part in it."""
    return round(read_rows(directory / "metrics.csv")[-1]["seconds"], 1)


def _diverged(epoch, step, batches, names_of):
    message = f"The loss became infinite or NaN in epoch {epoch + 1}"
    if names_of is not None:
        # Batches are a function of the epoch, so that this is the same one again.
        _, targets = next(iter(batches(range(epoch, epoch + 1)).skip(step)))
        message += f", step {step + 1}, on {', '.join(map(str, names_of(targets)))}"
    return f"{message}. Lower --learning_rate, or try --balance=dynamic."


@contextlib.contextmanager
def quiet_about_length():
    """Without Keras's "ran out of data" after each pass through data of unknown length.

    How many photographs can be read is known only at the end.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data")
        yield


def steps_per_epoch(config, images, strategy):
    """Whole batches of `images`, a source; refuses a --batch_size that does not go."""
    replicas = strategy.num_replicas_in_sync
    if config.batch_size > len(images):
        settings.refuse("batch_size", f"at most {len(images)} images", config.batch_size)
    if config.batch_size % replicas:
        rule = f"a multiple of {replicas} devices"
        settings.refuse("batch_size", rule, config.batch_size)
    return len(images) // config.batch_size


def is_chief(model):
    """Whether this process writes: of several machines the first."""
    return model.distribute_strategy.extended.should_checkpoint


def build_model(config, teacher, student, switch_points=None):
    """What `fit` trains for --method, with a teacher."""
    if config.method == "hybrid":
        return keras_hybrid.HybridTransfer(
            teacher,
            student,
            switch_points=switch_points,
            balance=settings.balance_of(config),
        )
    return baselines.FeatureTransfer(
        teacher,
        student,
        config.method,
        config.method_weight,
        switch_points=switch_points,
    )


class Alone(GradientStep, MultiWorkerFit, keras.Model):
    """A student that trains without a teacher: `Alone(student.input, student.output)`."""

    def _training_loss(self, x, y, sample_weight):
        # As a path of `HybridTransfer` runs it, whose batch normalization is faster.
        graph = graph_lib.flatten(self)
        images = keras.ops.cast(keras.tree.flatten(x)[0], graph.input_spec.dtype)
        values = {graph.input: images}
        graph.run(values, 0, None, training=True)
        y_pred = graph.pack([values[symbol] for symbol in graph.outputs])
        loss = self.compute_loss(x, y, y_pred, sample_weight, training=True)
        return loss, y_pred
