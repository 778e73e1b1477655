"""Latency of exported files on this CPU, compared with TensorFlow's own converter.

    python -m benchmarks.speed.export_latency

MobileNet V1 for 224x224 in float32, float16 and int8, run by LiteRT with XNNPACK on one
thread and on two. This package exports "taught" after some training steps of hybrid
forward, and "untrained" with initial weights; "converter" is the taught network as
`tf.lite.TFLiteConverter` writes it when it is used according to its guide. All files take
turns in one process, and ratios are taken within a round. The output of the last run,
with its machine, is in export_latency.txt beside this file.
"""

import keras_hybrid  # before TensorFlow: oneDNN is on

# isort: split
import argparse
import contextlib
import io
import itertools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from benchmarks import machine
from keras_hybrid.export import to_tflite

TAUGHT, UNTRAINED, CONVERTER = "taught", "untrained", "converter"
_PRECISIONS = None, "float16", "int8"
_THREADS = 1, 2
_CLASSES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--runs", type=int, default=20, help="runs per turn")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    images = noise(options.image_size)
    untrained, taught = (network(options.image_size) for _ in range(2))
    teach(taught, images)
    files = {}
    for precision in _PRECISIONS:
        files[TAUGHT, precision] = exported(taught, precision, images)
        files[UNTRAINED, precision] = exported(untrained, precision, images)
        files[CONVERTER, precision] = converted(taught, precision, images)
    print(report(options, files, latencies(options, files)))


def noise(size: int, count: int = 16) -> np.ndarray:
    """Returns random blocks of colour (N, H, W, 3).

    Networks respond to them more strongly than to random pixels.
    """
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (count, 8, 8, 3))
    images = keras.ops.image.resize(blocks.astype("float32"), (size, size))
    return keras.ops.convert_to_numpy(images).clip(0, 255)


def network(
    size: int, name: str = "MobileNet", classes: int | None = _CLASSES
) -> keras.Model:
    """Returns a network of Keras Applications with random weights."""
    shape = (size, size, 3)
    return keras_hybrid.applications.load(
        name, weights=None, input_shape=shape, classes=classes
    )


def teach(student: keras.Model, images: np.ndarray) -> None:
    """Trains for a few steps, which change the weights and the moving averages."""
    teacher = network(images.shape[1], "ResNet50", classes=None)
    model = keras_hybrid.HybridTransfer(teacher, student)
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    labels = np.arange(len(images)) % _CLASSES
    model.fit(images, labels, batch_size=8, epochs=2, verbose=0)


def exported(model: keras.Model, precision: str | None, images: np.ndarray) -> bytes:
    """Returns the content of the file that this package writes."""
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "student.tflite"
        to_tflite(model, path, quantization=precision, calibration_data=images)
        return path.read_bytes()


def converted(model: keras.Model, precision: str | None, images: np.ndarray) -> bytes:
    """Returns the content of the file that TensorFlow's converter makes."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if precision:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif precision == "int8":
        integers = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        converter.target_spec.supported_ops = [integers]
        converter.representative_dataset = lambda: ([image[None]] for image in images)
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    with contextlib.redirect_stdout(io.StringIO()):  # Keras prints the endpoints
        return converter.convert()


def latencies(
    options: argparse.Namespace, files: Mapping[tuple[str, str | None], bytes]
) -> dict[tuple[str, str | None, int], list[float]]:
    """Returns the milliseconds per image in each round, by (name, precision, threads)."""
    runs = {
        (*key, threads): runner(content, threads)
        for (key, content), threads in itertools.product(files.items(), _THREADS)
    }
    times = {key: [] for key in runs}
    for round_ in range(-1, options.rounds):  # the first one warms up
        for key, invoke in runs.items():
            started = time.perf_counter()
            for _ in range(options.runs):
                invoke()
            if round_ >= 0:
                seconds = time.perf_counter() - started
                times[key].append(1000 * seconds / options.runs)
    return times


def runner(content: bytes, threads: int) -> Callable[[], None]:
    """Returns a function that runs a file, on the same image every time."""
    interpreter = Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    values = np.full(image["shape"], 100, image["dtype"])
    interpreter.set_tensor(image["index"], values)
    return interpreter.invoke


def report(
    options: argparse.Namespace,
    files: Mapping[tuple[str, str | None], bytes],
    times: Mapping[tuple[str, str | None, int], Sequence[float]],
) -> str:
    """Returns the table as text."""
    lines = [
        f"MobileNet, {options.image_size}x{options.image_size}, one image, "
        f"{options.rounds} rounds of {options.runs} runs",
        machine.describe("ai-edge-litert"),
        "",
        f"{'':<22}{'KiB':>8}{'threads':>9}{'ms':>8}  {'(min - max)':<17}of converter's",
    ]
    for (name, precision), content in files.items():
        for threads in _THREADS:
            found = times[name, precision, threads]
            others = times[CONVERTER, precision, threads]
            ratio = statistics.median(a / b for a, b in zip(found, others))
            spread = f"({min(found):.2f} - {max(found):.2f})"
            lines.append(
                f"{precision or 'float32':<10}{name:<12}{len(content) / 1024:>8.0f}"
                f"{threads:>9}{statistics.median(found):>8.2f}  {spread:<17}{ratio:.3f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
