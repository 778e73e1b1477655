"""How fast exported files run on this CPU, beside those of TensorFlow's own converter.

    python benchmarks/export_latency.py

MobileNet V1 for 224x224 in float32, float16 and int8, run by LiteRT with XNNPACK on one
thread and on two. "taught" is exported by this package after steps of hybrid forward,
"untrained" as Keras Applications builds it, and "converter" is the taught one written by
`tf.lite.TFLiteConverter` as its guide says. All files take turns in one process, and
ratios are taken within a round. Output of the last run, with its machine:
export_latency.txt beside this file.
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

import keras
import machine
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_hybrid.export import to_tflite

TAUGHT, UNTRAINED, CONVERTER = "taught", "untrained", "converter"
_PRECISIONS = None, "float16", "int8"
_THREADS = 1, 2
_CLASSES = 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--runs", type=int, default=20, help="in a turn")
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


def noise(size, count=16):
    """Blocks of colours (N, H, W, 3), of which a network makes more than of pixels."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (count, 8, 8, 3))
    images = keras.ops.image.resize(blocks.astype("float32"), (size, size))
    return keras.ops.convert_to_numpy(images).clip(0, 255)


def network(size, name="MobileNet", classes=_CLASSES):
    shape = (size, size, 3)
    return keras_hybrid.applications.load(
        name, weights=None, input_shape=shape, classes=classes
    )


def teach(student, images):
    """Some steps, which move the weights and BatchNorm's averages off their start."""
    teacher = network(images.shape[1], "ResNet50", classes=None)
    model = keras_hybrid.HybridTransfer(teacher, student)
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    labels = np.arange(len(images)) % _CLASSES
    model.fit(images, labels, batch_size=8, epochs=2, verbose=0)


def exported(model, precision, images):
    """The bytes of the file that this package writes."""
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "student.tflite"
        to_tflite(model, path, quantization=precision, calibration_data=images)
        return path.read_bytes()


def converted(model, precision, images):
    """The bytes that the converter returns."""
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
    with contextlib.redirect_stdout(io.StringIO()):  # Keras lists the endpoints
        return converter.convert()


def latencies(options, files):
    """(name, precision, threads) -> milliseconds of an image, one for each round."""
    runs = {
        (*key, threads): runner(content, threads)
        for (key, content), threads in itertools.product(files.items(), _THREADS)
    }
    times = {key: [] for key in runs}
    for round_ in range(-1, options.rounds):  # the first is to warm up
        for key, invoke in runs.items():
            started = time.perf_counter()
            for _ in range(options.runs):
                invoke()
            if round_ >= 0:
                seconds = time.perf_counter() - started
                times[key].append(1000 * seconds / options.runs)
    return times


def runner(content, threads):
    """A function that runs the file on the same image again."""
    interpreter = Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    values = np.full(image["shape"], 100, image["dtype"])
    interpreter.set_tensor(image["index"], values)
    return interpreter.invoke


def report(options, files, times):
    """The table as text."""
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
