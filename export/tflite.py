"""Export of the student as a TFLite (LiteRT) file."""

import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from keras.backend import standardize_dtype

from keras_hybrid.export.agreement import require_agreement, sample_images
from keras_hybrid.export.calibration import calibration_images, with_full_range
from keras_hybrid.export.converter import convert, convert_to_int8, quiet_stderr
from keras_hybrid.export.detections import NAMES
from keras_hybrid.export.flatbuffer import pack
from keras_hybrid.export.float16 import EXACT_SHARES, with_float16_weights
from keras_hybrid.export.metadata import label_names, with_labels
from keras_hybrid.export.report import ExportReport
from keras_hybrid.export.saved_model import write_saved_model
from keras_hybrid.export.student import float32_student, forward, image_input
from keras_hybrid.training.atomic_write import staged, temporary_directory

QUANTIZATIONS = None, "float16", "dynamic", "int8"
# Scaled error up to which no more accurate file is tried. On a thousand images it is
# about twice as large as on the hundred on which it is measured.
_CLOSE = 5e-4


def to_tflite(
    model: keras.Model,
    filepath: str | os.PathLike,
    *,
    quantization: str | None = None,
    calibration_data: Iterable[Any] | Callable[[], Iterable[Any]] | None = None,
    labels: Iterable[str] | None = None,
) -> ExportReport:
    """Writes the student as a TFLite file and checks what was written.

    The file takes one image: its input `"image"` has the fixed shape `(1, H, W, C)`,
    which phones run fastest. It needs built-in TFLite operators only. A dict of outputs
    keeps its keys as names; a single output or a list is `"output_0"`, ....

    A student for any image size, `(None, None, 3)`, is first given one:
    `image = keras.Input((H, W, 3)); model = keras.Model(image, student(image))`.

    Args:
        model: A student, or a model with a `.student` such as `HybridTransfer`. It must
            have one input, images of a fixed height and width. Not changed.
        filepath: Path that ends in `.tflite`. Missing parents are created; an existing
            file is replaced once the new one is complete.
        quantization: None for float32. `"float16"` stores weights in half the bytes,
            fewer of them where an output would otherwise change by more than 5e-4, and
            computes in float32. `"dynamic"` stores weights in a quarter of the bytes, and
            computes in float32 where there is no faster kernel. `"int8"` computes in
            integers throughout: input and outputs are uint8, and a student that takes raw
            RGB takes pixels of 0 to 255 as they are; an output's value is
            `scale * (byte - zero_point)`, with both numbers in the file. Detectors cannot
            be exported so.
        calibration_data: Images as the student takes them, of which up to 100 are used:
            an array (N, H, W, C); a `tf.data.Dataset` or other iterable of images or
            batches, with or without labels; or a function that returns an iterator of
            them. They set the ranges of `"int8"`, which requires them, including the
            range of the input: it is 0 to 255 only if they are raw RGB beyond doubt. The
            file is compared with Keras on them; without them, on seeded blocks of colour.
        labels: Names of the classes, in the order of the last axis of an output, or of
            its values if they are integers (a label map, or a detector's `"classes"`).
            They are stored in the file's metadata, where LiteRT's task libraries find
            them. An empty name is a class without a name. Line ends, and empty names
            after the last class, are dropped.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: `model` cannot be exported: it needs operators that TFLite lacks, has
            no fixed image size or gives NaN, is a detector while `quantization` is
            `"int8"`, or TensorFlow's converter fails or crashes on it; or another
            argument is invalid.
        TypeError: `model` is not a `keras.Model`.
        RuntimeError: The written file does not compute what Keras computes.

    Example:

    >>> report = to_tflite(
    ...     model.student, "student.tflite", quantization="int8", calibration_data=images
    ... )
    >>> interpreter = ai_edge_litert.interpreter.Interpreter(report.filepath)
    >>> interpreter.get_signature_runner()(image=camera_bytes)["output_0"]
    """
    path = pathlib.Path(filepath)
    if path.suffix != ".tflite" or path.is_dir():
        raise ValueError(
            "`filepath` must be a file that ends in '.tflite'. "
            f"Received: filepath={filepath}"
        )
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"`quantization` must be one of {QUANTIZATIONS}. Received: "
            f"quantization={quantization!r}"
        )
    if quantization == "int8" and calibration_data is None:
        raise ValueError(
            '`calibration_data` must be given with quantization="int8": about 100 images '
            "as the student takes them. Received: calibration_data=None"
        )
    student = float32_student(model)
    if quantization == "int8" and _is_detector(student):
        raise ValueError(
            '`quantization` must be None, "float16" or "dynamic" for a detector: the 256 '
            "levels of an 8-bit integer are too few to decode and suppress boxes. "
            'Received: quantization="int8"'
        )
    shape = _shape_of_one(image_input(student).shape)
    images = _images(calibration_data, shape, image_input(student))
    if labels is not None:
        labels, *output = _labels_and_output(student, images[0], labels)
    with staged(path) as new:
        for content in _conversions(student, shape, quantization, images):
            if labels is not None:
                content = with_labels(content, labels, *output)
            new.write_bytes(content)
            failure = None
            try:
                agreement, inputs, outputs = _verify(new, student, images, quantization)
            except RuntimeError as error:
                failure = error
            else:
                if agreement.scaled_error <= _CLOSE:
                    break
        if failure:
            raise failure
        return ExportReport(
            filepath=os.fspath(filepath),
            size_bytes=new.stat().st_size,
            max_abs_error=agreement.max_abs_error,
            agreement=agreement.same_argmax,
            ops=_ops(content),
            input_signature=_signature(inputs),
            output_signature=_signature(outputs),
        )


def _is_detector(student):
    outputs = getattr(student, "output", None)
    return isinstance(outputs, dict) and outputs.keys() == NAMES


def _images(calibration_data, shape, image):
    if calibration_data is None:
        return sample_images(shape, image.dtype)
    return calibration_images(calibration_data, image)


def _labels_and_output(student, image, labels):
    """The names, the output that they label, and whether they name its values."""
    names = label_names(labels)
    outputs = forward(student, image)
    if outputs.keys() == NAMES:
        return names, "classes", True
    (name, first), *others = outputs.items()
    if not others and "int" in standardize_dtype(first.dtype):
        return names, name, True
    shapes = {name: tuple(y.shape) for name, y in outputs.items()}
    sizes = {shape[-1] for shape in shapes.values()}
    while names and len(names) not in sizes and not names[-1].strip():
        names.pop()
    fitting = [name for name, shape in shapes.items() if shape[-1] == len(names)]
    if len(fitting) != 1:
        raise ValueError(
            "`labels` must be as many as the channels of one output. Received: "
            f"{len(names)} labels for outputs of shape {shapes}"
        )
    return names, fitting[0], False


def _verify(path, student, images, quantization):
    """Runs the file; returns its `Agreement` and details of its inputs and outputs."""
    with quiet_stderr():
        interpreter = Interpreter(model_path=os.fspath(path))
        interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    outputs = runner.get_output_details()
    _require_input(runner.get_input_details()["image"], images)
    agreement = require_agreement(
        student,
        lambda image: _run(runner, image),
        images,
        quantization,
        {name: y["quantization"][0] for name, y in outputs.items()},
    )
    return agreement, runner.get_input_details(), outputs


def _require_input(detail, images):
    """Raises if the input of an int8 file is coarser or narrower than the images.

    With 256 levels over the range of the images and zero, the error is up to half a step,
    and up to one step more at the ends, since zero is one of the levels.
    """
    scale, zero_point = detail["quantization"]
    if not scale:
        return
    error = np.abs(_dequantize(_quantize(images, detail), detail) - images).max()
    low, high = min(0.0, float(images.min())), max(0.0, float(images.max()))
    if error > 1.5 * (high - low) / 255:
        raise RuntimeError(
            "The exported file must take the images as the student does. Received: an "
            f"input in steps of {scale:.3g} from {0 - scale * zero_point:.3g} for images "
            f"from {low:.3g} to {high:.3g}. If the network concatenates them with "
            "features of another range, scale both alike, or use "
            'quantization="dynamic"'
        )


def _run(runner, image):
    """Outputs of the file for an image, in the units of Keras's outputs."""
    detail = runner.get_input_details()["image"]
    outputs = runner(image=_quantize(image, detail))
    details = runner.get_output_details()
    return {name: _dequantize(y, details[name]) for name, y in outputs.items()}


def _quantize(values, detail):
    scale, zero_point = detail["quantization"]
    if not scale:
        return values
    limits = np.iinfo(detail["dtype"])
    levels = np.rint(values / scale) + zero_point
    return np.clip(levels, limits.min, limits.max).astype(detail["dtype"])


def _dequantize(values, detail):
    scale, zero_point = detail["quantization"]
    return scale * (values.astype("float32") - zero_point) if scale else values


def _shape_of_one(shape):
    batch, height, width, channels = shape
    if None in shape[1:] or batch not in (None, 1):
        raise ValueError(
            "`model` must take single images of a fixed size. Fix it with `image = "
            "keras.Input((height, width, 3)); model = keras.Model(image, model(image))`. "
            f"Received: input shape {tuple(shape)}"
        )
    return 1, height, width, channels


def _conversions(student, shape, quantization, images):
    """The bytes of the file: the smallest first, then more accurate ones if any."""
    content = _convert(student, shape, quantization, images)
    if quantization == "float16":
        yield from (with_float16_weights(content, share) for share in EXACT_SHARES)
    else:
        yield pack(schema.ModelT.InitFromPackedBuf(content, 0))


def _convert(student, shape, quantization, images):
    """Returns the bytes of a file with float32 weights or the converter's quantization.

    It goes through a SavedModel: converting a traced function loses the names, and if the
    Keras model is given as the object to track, the file lacks the weights.
    """
    with temporary_directory() as directory:
        write_saved_model(student, directory, shape)
        try:
            if quantization == "int8":
                return convert_to_int8(directory, with_full_range(images, student))
            return convert(directory, quantization)
        except ValueError as error:
            modes = {x.dtype_policy.quantization_mode for x in student._flatten_layers()}
            if not modes - {None}:
                raise
            raise ValueError(
                "`model` must be the student as it was before `quantize`: this function "
                "quantizes it. Received: layers that are quantized to "
                f"{', '.join(sorted(modes - {None}))}"
            ) from error


def _ops(content):
    names = {
        code: name
        for name, code in vars(schema.BuiltinOperator).items()
        if name.isupper()
    }
    file = schema.Model.GetRootAs(content)
    codes = [file.OperatorCodes(i) for i in range(file.OperatorCodesLength())]
    # Codes up to 127 are in the old field too; for newer ones it has its largest value.
    found = {max(c.BuiltinCode(), c.DeprecatedBuiltinCode()) for c in codes}
    return tuple(sorted(names[code] for code in found))


def _signature(details):
    return {
        name: (
            tuple(map(_free, detail["shape_signature"])),
            np.dtype(detail["dtype"]).name,
        )
        for name, detail in sorted(details.items())
    }


def _free(size):
    return None if size < 0 else int(size)
