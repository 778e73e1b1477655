"""Export of the student as a SavedModel."""

import os
import pathlib

import keras
import tensorflow as tf

from keras_hybrid.export.agreement import require_agreement, sample_images
from keras_hybrid.export.report import ExportReport
from keras_hybrid.export.student import float32_student, forward, image_input
from keras_hybrid.training.atomic_write import is_full_disk, is_pattern, staged

# Height and width at which a student of any image size is checked.
CHECKED_SIZE = 224


def to_saved_model(model: keras.Model, filepath: str | os.PathLike) -> ExportReport:
    """Writes the student's forward pass as a SavedModel and checks what was written.

    The directory contains the inference pass in float32 and nothing else: no teacher, no
    adapters, no optimizer. Its `serve(images)` takes a batch of any size, and images of
    any size if the student does, and returns a dict of outputs, named as in `to_tflite`.

    Args:
        model: A student, or a model with a `.student` such as `HybridTransfer`. It must
            have one input, images `(batch, height, width, channels)`. Not changed.
        filepath: Path of the directory. Missing parents are created; an existing
            SavedModel is replaced once the new one is complete.

    Returns:
        An `ExportReport`, with `ops=()`.

    Raises:
        ValueError: `model` cannot be exported, for instance because it needs an image
            size and has none; or `filepath` is neither new nor empty nor a SavedModel, or
            has one of * ? [ \\ in it, which TensorFlow takes for a pattern.
        TypeError: `model` is not a `keras.Model`.
        RuntimeError: The written SavedModel does not compute what Keras computes.
        OSError: `filepath` cannot be written.

    Example:

    >>> report = to_saved_model(model.student, "student")
    >>> loaded = tf.saved_model.load(report.filepath)
    >>> loaded.serve(images)["output_0"]
    """
    path = pathlib.Path(filepath)
    if is_pattern(path):
        raise ValueError(
            "`filepath` must be a path without * ? [ or \\, which TensorFlow takes for a "
            f"pattern. Received: filepath={filepath}, which is {path.absolute()}"
        )
    if path.exists() and not _is_replaceable(path):
        raise ValueError(
            "`filepath` must be a new path, an empty directory or a SavedModel to "
            f"replace. Received: filepath={filepath}"
        )
    student = float32_student(model)
    batch, height, width, channels = image_input(student).shape
    images = sample_images(
        (batch or 2, height or CHECKED_SIZE, width or CHECKED_SIZE, channels),
        image_input(student).dtype,
    )
    with staged(path) as new:
        write_saved_model(student, new, image_input(student).shape)
        loaded = tf.saved_model.load(new)
        agreement = require_agreement(student, loaded.serve, images)
        serving = loaded.signatures["serving_default"]
        return ExportReport(
            filepath=os.fspath(filepath),
            size_bytes=sum(f.stat().st_size for f in new.rglob("*") if f.is_file()),
            max_abs_error=agreement.max_abs_error,
            agreement=agreement.same_argmax,
            ops=(),
            input_signature=_signature(serving.structured_input_signature[1]),
            output_signature=_signature(serving.structured_outputs),
        )


def write_saved_model(
    student: keras.Model, directory: str | os.PathLike, shape: tuple[int | None, ...]
) -> None:
    """Writes `student` with one endpoint: `serve` maps images of `shape` to a dict."""
    image = tf.TensorSpec(shape, image_input(student).dtype, name="image")
    archive = keras.export.ExportArchive()
    archive.add_endpoint("serve", lambda images: forward(student, images), [image])
    try:
        archive.write_out(os.fspath(directory), verbose=False)
    except Exception as error:  # layers and TensorFlow raise different types
        if None not in shape[1:] or isinstance(error, OSError) or is_full_disk(error):
            raise
        raise ValueError(
            "`model` must have an image size, since one of its layers does not work in a "
            "graph for images of any size. In Python, fix it with `image = keras.Input(("
            "height, width, 3)); model = keras.Model(image, model(image))`; in a shell, "
            f"with --height and --width. Received: input shape {tuple(shape)}"
        ) from error


def _is_replaceable(path):
    is_empty = path.is_dir() and not any(path.iterdir())
    return is_empty or (path / "saved_model.pb").is_file()


def _signature(specs):
    return {
        name: (tuple(spec.shape), spec.dtype.name) for name, spec in sorted(specs.items())
    }
