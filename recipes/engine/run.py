"""The parts of a run: the model, training that can be resumed, and exports."""

import contextlib
import math
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from ai_edge_litert.interpreter import Interpreter

import keras_hybrid
from keras_hybrid import baselines
from keras_hybrid.callbacks import HybridEpochs, TransferCurves, plot, read_rows
from keras_hybrid.hybrid import graph as graph_lib
from keras_hybrid.recipes.engine import settings
from keras_hybrid.recipes.engine.checkpoints import Checkpoints
from keras_hybrid.training.gradient_step import GradientStep
from keras_hybrid.training.multi_worker import MultiWorkerFit


def export(
    config: settings.Config,
    student: keras.Model,
    directory: pathlib.Path,
    **kwargs: Any,
) -> dict[str, Any]:
    """Exports to the formats in --export; returns the entries for results.json.

    Args:
        config: Config of the recipe.
        student: Network to export.
        directory: Directory for the exported files.
        **kwargs: Arguments of `to_tflite`.
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


def top1_of_file(
    path: str | os.PathLike[str], batches: tf.data.Dataset, count: int
) -> float:
    """Returns the top-1 accuracy in percent of a TFLite file.

    Args:
        path: Path of the file.
        batches: Batches of one image (1, H, W, 3) and its label (1,).
        count: Number of batches, for the progress bar.
    """
    runner = Interpreter(model_path=os.fspath(path)).get_signature_runner()
    progress = keras.utils.Progbar(count, unit_name="image")
    right = total = 0
    for image, label in batches:
        right += int(np.argmax(runner(image=image)["output_0"]) == int(label[0]))
        total += 1
        progress.update(total)
    return round(100 * right / total, 3)


def fit(
    directory: pathlib.Path,
    model: keras.Model,
    student: keras.Model,
    batches: Callable[..., tf.data.Dataset],
    *,
    source: Any,
    epochs: int,
    steps_per_epoch: int,
    validation_data: tf.data.Dataset | None = None,
    hybrid_epochs: int | None = None,
) -> None:
    """Runs `model.fit`, resuming from the last checkpoint in `directory`.

    Args:
        directory: Directory for the checkpoints, `metrics.csv`, `curves.png` and
            TensorBoard logs. Of several machines only the first writes to it.
        model: The compiled model to train.
        student: The network to train: `model` itself or a part of it.
        batches: Function of a `range` of epochs and a `tf.distribute.InputContext` that
            returns the context's share of their batches; without a context, all.
        source: Source of the training images. Its `names_of`, if it has one, is a
            function from the targets of a batch to the names of the images.
        epochs: Number of epochs, including those of earlier processes.
        steps_per_epoch: Number of training steps in an epoch.
        validation_data: Batches to evaluate on after each epoch, or None.
        hybrid_epochs: Number of first epochs in which hybrid paths run, or None for all.

    Raises:
        FloatingPointError: The loss became infinite or NaN; the message names the images
            of the batch if the source can.
    """
    writes = is_chief(model)
    strategy = model.distribute_strategy
    checkpoints = Checkpoints(directory / "checkpoints", model, student, source, writes)
    done = checkpoints.restore()
    if done:
        logging.info("Resuming after epoch %d of %d", done, epochs)
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
                shuffle=False,  # the batches are shuffled already
                validation_data=validation_data
                and _evenly_shared(validation_data, strategy.num_replicas_in_sync),
                callbacks=[
                    end,
                    *_schedule(model, hybrid_epochs),
                    # Before the checkpoint: an extra row is replaced on resuming.
                    *([TransferCurves(directory)] if writes else []),
                    checkpoints,
                ],
            )
        if end.at:
            raise FloatingPointError(_diverged(*end.at, batches, source))
    elif writes:  # An earlier process may have ended before it plotted them.
        plot(read_rows(directory / "metrics.csv"), directory / "curves.png")


class StopAtNaN(keras.callbacks.TerminateOnNaN):
    """Ends `fit` when the loss is infinite or NaN; `at` is then (epoch, step)."""

    def __init__(self) -> None:
        super().__init__()
        self.at: tuple[int, int] | None = None

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        super().on_batch_end(batch, logs)
        if self.at is None and not math.isfinite(logs["loss"]):
            self.at = self._epoch, batch


def _evenly_shared(batches, replicas):
    """Drops a last batch that replicas cannot share evenly, on which Keras 3.15 fails."""
    return batches.filter(lambda images, *_: tf.shape(images)[0] % replicas == 0)


def training_seconds(directory: pathlib.Path) -> float:
    """Returns the training time in seconds, summed over all processes of the run."""
    return round(read_rows(directory / "metrics.csv")[-1]["seconds"], 1)


def _diverged(epoch, step, batches, source):
    message = f"The loss became infinite or NaN in epoch {epoch + 1}"
    if hasattr(source, "names_of"):
        # Batches depend only on the epoch, so that this is the same one again.
        _, targets = next(iter(batches(range(epoch, epoch + 1)).skip(step)))
        message += f", step {step + 1}, on {', '.join(source.names_of(targets))}"
    return f"{message}. Lower --learning_rate, or try --balance=dynamic."


@contextlib.contextmanager
def quiet_about_length() -> Iterator[None]:
    """Silences Keras's "ran out of data" after each pass through data of unknown length.

    How many photographs can be read is known only at the end.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data")
        yield


def check_batch_size(
    config: settings.Config, images: Sized, strategy: tf.distribute.Strategy
) -> None:
    """Refuses a --batch_size that the images or the devices cannot share."""
    replicas = strategy.num_replicas_in_sync
    if config.batch_size > len(images):
        settings.refuse("batch_size", f"at most {len(images)} images", config.batch_size)
    if config.batch_size % replicas:
        rule = f"a multiple of {replicas} devices"
        settings.refuse("batch_size", rule, config.batch_size)


def _schedule(model, hybrid_epochs):
    if hybrid_epochs is None or not isinstance(model, keras_hybrid.HybridTransfer):
        return []
    return [HybridEpochs(hybrid_epochs)]


def epochs_of(config: Any, steps_per_epoch: int) -> int:
    """Returns --epochs, or the number of epochs in which --steps are done.

    In the rest of the last epoch the learning rate is 0.
    """
    if hasattr(config, "epochs"):
        return config.epochs
    return math.ceil(config.steps / steps_per_epoch)


def is_chief(model: keras.Model) -> bool:
    """Whether this process writes files: of several machines only the first does."""
    return model.distribute_strategy.extended.should_checkpoint


def build_model(
    config: settings.Config,
    teacher: keras.Model | list[keras.Model],
    student: keras.Model,
    switch_points: Any = None,
) -> keras.Model:
    """Returns the model to train for a --method that has a teacher, or several."""
    if config.method == "hybrid":
        return keras_hybrid.HybridTransfer(
            teacher,
            student,
            switch_points=switch_points,
            balance=settings.balance_of(config),
            paths_per_step=config.paths_per_step,
            teacher_preprocessing="inside",
            teacher_dtype=config.teacher_dtype or None,
            plus=settings.plus_of(config),
        )
    return baselines.FeatureTransfer(
        teacher,
        student,
        config.method,
        config.method_weight,
        switch_points=switch_points,
        teacher_preprocessing="inside",
        teacher_dtype=config.teacher_dtype or None,
    )


class Alone(GradientStep, MultiWorkerFit, keras.Model):
    """A student that trains without a teacher: `Alone(student.input, student.output)`."""

    def _training_loss(self, x, y, sample_weight):
        # As a path of `HybridTransfer` runs it, with faster batch normalization.
        graph = graph_lib.flatten(self, opens_layers=False)
        images = keras.ops.cast(keras.tree.flatten(x)[0], graph.input_spec.dtype)
        values = {graph.input: images}
        graph.run(values, 0, None, training=True)
        y_pred = graph.pack([values[symbol] for symbol in graph.outputs])
        loss = self.compute_loss(x, y, y_pred, sample_weight, training=True)
        return loss, y_pred
