"""TensorFlow's converter, from a SavedModel to the bytes of a TFLite file.

Quantization to int8 runs in a subprocess: on networks that it cannot quantize, the
converter crashes the whole process with a segmentation fault.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

_IMAGES, _FILE, _REFUSAL = "images.npy", "int8.tflite", "refusal.txt"
# Runs this file by its path, since importing the package would import Keras. TensorFlow
# would import Keras too, and JAX where it is installed, but converts without them in half
# the time.
_CHILD = """
import gc, runpy, sys
gc.disable()
sys.modules.update(jax=None, keras=None)
runpy.run_path(sys.argv[1])["_main"](*sys.argv[2:])
"""


def convert(saved_model: str | os.PathLike, quantization: str | None = None) -> bytes:
    """Returns the bytes of a file with float32 or dynamic-range quantized weights.

    Args:
        saved_model: Path of the SavedModel directory.
        quantization: `"dynamic"`; anything else gives float32.

    Raises:
        ValueError: TFLite lacks an operator, or the converter cannot convert the model.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(os.fspath(saved_model))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantization == "dynamic":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return _converted(converter)


def convert_to_int8(saved_model: str | os.PathLike, images: np.ndarray) -> bytes:
    """Returns the bytes of a file that computes in integers, converted in a subprocess.

    Args:
        saved_model: Path of the SavedModel directory.
        images: Batches (N, 1, H, W, C), on which the network's values set the range of
            each tensor.

    Raises:
        ValueError: As `convert`, or the converter crashed.
    """
    with tempfile.TemporaryDirectory() as directory:
        np.save(os.path.join(directory, _IMAGES), images)
        arguments = __file__, os.fspath(saved_model), directory
        command = [sys.executable, "-c", _CHILD, *arguments]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}  # takes no GPU memory
        process = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True
        )
        refusal, file = (pathlib.Path(directory, name) for name in (_REFUSAL, _FILE))
        if refusal.exists():
            raise ValueError(refusal.read_text(encoding="utf-8"))
        if not file.exists():
            raise ValueError(
                "`model` must be a network that TensorFlow's converter can quantize to "
                f"int8. Received: one on which it crashes ({_end(process)}), as it does "
                "on recurrent layers and on values that overflow in an activation, such "
                "as mish of more than 88. Scale the images in the first layer, replace "
                'what crashes, or export with quantization="dynamic" or "float16"'
            )
        return file.read_bytes()


def _end(process):
    """How a process ended: `"SIGSEGV"`, or its exit code and last line."""
    if process.returncode < 0:
        return signal.Signals(-process.returncode).name
    lines = process.stderr.decode(errors="replace").splitlines() or [""]
    return f"exit code {process.returncode}, {lines[-1][:200]}"


def _to_int8(saved_model, images):
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    converter.representative_dataset = lambda: ({"image": image} for image in images)
    return _converted(converter)


def _converted(converter):
    try:
        with quiet_stderr(), warnings.catch_warnings():
            # The converter itself uses it to quantize.
            warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is")
            return converter.convert()
    except Exception as error:
        # The converter's own message is pages of C++ logs.
        raise ValueError(_reason(error)) from None


def _reason(error):
    names = {e.operator.name for e in getattr(error, "errors", ())}
    missing = sorted(n.removeprefix("tf.") for n in names if n.startswith("tf."))
    if missing:
        return (
            "`model` must consist of operators that TFLite has built in. Received: a "
            f"model that needs the TensorFlow operators {', '.join(missing)}"
        )
    said = " ".join(str(error).split())[:200]
    return (
        "`model` must be a network that TensorFlow's converter can convert. Received: "
        f"one for which it says: {said}"
    )


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Discards what the process writes to stderr.

    Converter and interpreter log pages from C++, which bypasses Python's `sys.stderr`,
    and read their log level when TensorFlow is imported: only redirecting the file
    descriptor silences them.
    """
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _main(saved_model, directory):
    """Runs in the subprocess; input and output are files in `directory`."""
    images = np.load(os.path.join(directory, _IMAGES))
    try:
        pathlib.Path(directory, _FILE).write_bytes(_to_int8(saved_model, images))
    except ValueError as error:
        pathlib.Path(directory, _REFUSAL).write_text(str(error), encoding="utf-8")
