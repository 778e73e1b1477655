"""The student as a TFLite (LiteRT) file."""

import contextlib
import os
import pathlib
import tempfile

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from keras_hybrid.export.agreement import require_agreement, sample_images
from keras_hybrid.export.report import ExportReport
from keras_hybrid.export.saved_model import write_saved_model
from keras_hybrid.export.staging import staged
from keras_hybrid.export.student import float32_student, image_input


def to_tflite(model, filepath):
    """Writes the student as a float32 TFLite file and checks what was written.

    The file takes one image: its input `"image"` has the fixed shape `(1, H, W, C)`,
    which is what phones run fastest. It needs built-in TFLite operators only. A dict of
    outputs keeps its keys as names; a single output or a list is `"output_0"`, ....

    A student for any image size, `(None, None, 3)`, gets its size in one line first:
    `image = keras.Input((H, W, 3)); model = keras.Model(image, student(image))`.

    Args:
        model: A student, or a model with a `.student` such as `HybridTransfer`. Its one
            input is images of a fixed height and width. Not changed.
        filepath: Ends in `.tflite`. Missing parents are created; a file that is there is
            replaced once the new one is complete.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: `model` cannot be exported: it needs operators that TFLite lacks, has
            no fixed image size or gives NaN; or `filepath` is a directory or does not
            end in `.tflite`.
        TypeError: `model` is no `keras.Model`.
        RuntimeError: The written file does not compute what Keras computes.

    Example:

    >>> report = to_tflite(model.student, "student.tflite")
    >>> interpreter = ai_edge_litert.interpreter.Interpreter(report.filepath)
    >>> interpreter.get_signature_runner()(image=image)["output_0"]
    """
    path = pathlib.Path(filepath)
    if path.suffix != ".tflite" or path.is_dir():
        raise ValueError(
            "`filepath` must be a file that ends in '.tflite'. "
            f"Received: filepath={filepath}"
        )
    student = float32_student(model)
    shape = _shape_of_one(image_input(student).shape)
    images = sample_images(shape, image_input(student).dtype)
    with staged(path) as new:
        new.write_bytes(_convert(student, shape))
        with _quiet_stderr():
            interpreter = Interpreter(model_path=os.fspath(new))
            interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner()
        agreement = require_agreement(student, lambda image: runner(image=image), images)
        return ExportReport(
            filepath=os.fspath(filepath),
            size_bytes=new.stat().st_size,
            max_abs_error=agreement.max_abs_error,
            agreement=agreement.same_argmax,
            ops=_ops(new.read_bytes()),
            input_signature=_signature(runner.get_input_details()),
            output_signature=_signature(runner.get_output_details()),
        )


def _shape_of_one(shape):
    batch, height, width, channels = shape
    if None in shape[1:] or batch not in (None, 1):
        raise ValueError(
            "`model` must take single images of a fixed size. Fix it by `image = "
            "keras.Input((height, width, 3)); model = keras.Model(image, model(image))`. "
            f"Received: input shape {tuple(shape)}"
        )
    return 1, height, width, channels


def _convert(student, shape):
    """Returns the bytes of the file.

    By way of a SavedModel: converting a traced function keeps no names, and given the
    Keras model to track, it leaves the weights out of the file.
    """
    with tempfile.TemporaryDirectory() as directory:
        write_saved_model(student, directory, shape)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            with _quiet_stderr():
                return converter.convert()
        except Exception as error:
            missing = {e.operator.name for e in getattr(error, "errors", ())} - {""}
            if not missing:
                raise
            names = ", ".join(sorted(name.removeprefix("tf.") for name in missing))
            raise ValueError(
                "`model` must consist of operators that TFLite has built in. "
                f"Received: a model that needs the TensorFlow operators {names}"
            ) from None  # the converter's own message is pages of C++


def _ops(content):
    names = {
        code: name
        for name, code in vars(schema.BuiltinOperator).items()
        if name.isupper()
    }
    file = schema.Model.GetRootAs(content)
    codes = [file.OperatorCodes(i) for i in range(file.OperatorCodesLength())]
    # Codes up to 127 are in the old field too; newer ones have its largest value there.
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


@contextlib.contextmanager
def _quiet_stderr():
    """Drops what the process writes to stderr.

    Converter and interpreter log a page from C++, past Python's `sys.stderr`, and read
    their log level when TensorFlow is imported: only the file descriptor is left.
    """
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
