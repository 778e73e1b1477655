"""Compares the detections of exported files with those of Keras on photographs.

    python -m benchmarks.checks.phone_detections WORKDIR ... \
        > benchmarks/checks/phone_detections.txt

Each WORKDIR is that of a finished run of recipes.citypersons whose test images have one
size. Its detector is exported for whole test images and checked on twenty of them; then
both the detector and the file run on these and on twenty others. Prints how many
detections the two have in common, how far apart these are at most, and how many only one
of them has.
"""

import argparse
import itertools
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Mapping

import keras_hybrid  # noqa: F401, before TensorFlow: oneDNN is on

# isort: split
import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks import machine
from keras_hybrid.export import to_tflite
from keras_hybrid.export.detections import pair_up
from keras_hybrid.models.detection.faster_rcnn import with_detections
from keras_hybrid.recipes import citypersons

_IMAGES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdirs", nargs="+", type=pathlib.Path, metavar="WORKDIR")
    workdirs = parser.parse_args().workdirs
    print(machine.describe("ai-edge-litert"))
    for workdir in workdirs:
        config = citypersons.Config(**json.loads((workdir / "config.json").read_text()))
        images = test_images(config, 2 * _IMAGES)
        student = keras.saving.load_model(workdir / "student.keras")
        network = with_detections(student, *images.shape[1:3])
        expected = [network.predict_on_batch(image[None]) for image in images]
        for quantization in (None, "float16"):
            file = exported(network, quantization, images[:_IMAGES])
            received = [file(image=image[None]) for image in images]
            both = list(zip(expected, received, strict=True))
            name = f"{workdir.name}, {quantization or 'float32'}"
            print(f"{name}, exported with: {compare(both[:_IMAGES])}")
            print(f"{name}, others: {compare(both[_IMAGES:])}", flush=True)


def test_images(config: citypersons.Config, count: int) -> np.ndarray:
    """Returns images (N, H, W, 3) from evenly spaced places in the test set."""
    data = citypersons.open_data(config)
    step = len(data.test) // count
    batches = citypersons.evaluation_batches(config, data)
    chosen = itertools.islice(batches, 0, count * step, step)
    return np.concatenate([images for images, _ in chosen])


def exported(
    network: keras.Model, quantization: str | None, images: np.ndarray
) -> Callable[..., dict[str, np.ndarray]]:
    """Exports a detector; returns a function from an image to the file's detections."""
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "detector.tflite"
        to_tflite(network, path, quantization=quantization, calibration_data=images)
        interpreter = Interpreter(model_content=path.read_bytes(), num_threads=1)
    return interpreter.get_signature_runner()


def compare(
    runs: Iterable[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]],
) -> str:
    """Describes how far apart the expected and the received detections are."""
    pairs, alone = [], 0
    for expected, received in runs:
        pairs.extend(pair_up(expected, received)[0])
        alone += int(expected["count"].sum()) + int(received["count"].sum())
    pairs = np.reshape(pairs, (-1, 2, 5))
    distance = np.abs(pairs[:, 0] - pairs[:, 1])
    boxes, scores = distance[:, :4].max(axis=1), distance[:, 4]
    return (
        f"{len(pairs)} pairs, boxes at most {boxes.max(initial=0):.2g} pixels apart "
        f"({np.sum(boxes > 1)} more than 1), scores {scores.max(initial=0):.2g}; "
        f"{alone - 2 * len(pairs)} unpaired"
    )


if __name__ == "__main__":
    main()
