"""Throughput of the input pipelines, compared with two hand-written ones.

    python -m benchmarks.speed.input_pipeline

They read synthetic photographs of realistic file sizes from a temporary folder: class
folders, images with label maps, and images with boxes in COCO-style JSON. Of the two
hand-written pipelines (hand_written.py), one decodes whole JPEGs and the other only the
crop. All contenders take turns in one process, each for an epoch from its first batch to
its last, so that a slow minute of the machine affects all of them; ratios are taken
within a round.

By default, all of them resize with antialiasing, as our pipelines and Pillow do. With
`--noantialias`, the hand-written ones do not, which is faster but gives other pixels than
those on which published networks were trained. The output of the last run, with its
machine, is in input_pipeline.txt beside this file.
"""

import keras_hybrid  # noqa: F401  before TensorFlow: oneDNN is on

# isort: split
import dataclasses
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import app
from etils import eapp

from benchmarks import machine
from benchmarks.speed import hand_written, photographs
from keras_hybrid.data import classification, detection, segmentation

OURS, WHOLE, CROP = "keras_hybrid", "by hand, whole images", "by hand, crop first"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings; the defaults are those of the published figures."""

    images: int = 1024
    """Number of images in class folders, 500x375 pixels."""
    scenes: int = 128
    """Number of images with label maps, and of images with boxes, 1024x512 pixels."""
    shrink: int = 1
    """Divisor of all sizes in pixels, for a quick run."""
    antialias: bool = True
    """Whether the hand-written pipelines resize with antialiasing, as ours do."""
    rounds: int = 5
    """Number of measured turns of each contender, after one turn to warm up."""


def class_folders(config: Config, folder: pathlib.Path) -> dict[str, tf.data.Dataset]:
    """Returns the batches of one epoch of 224x224 crops, by contender."""
    size, crop = (375 // config.shrink, 500 // config.shrink), 224 // config.shrink
    photographs.class_folders(folder, config.images, size, np.random.default_rng(0))
    files = sorted(map(str, folder.glob("train/*/*.jpg")))
    labels = [pathlib.Path(file).parent.name == "b" for file in files]

    def by_hand(crop_first):
        return hand_written.classes_pipeline(
            files, np.int32(labels), crop, 32, crop_first, config.antialias
        )

    transform = classification.augment.random_resized_crop_flip(crop)
    ours = classification.open_dataset(folder).train.training_batches(
        32, transform, 0, range(1)
    )
    return {OURS: ours, WHOLE: by_hand(False), CROP: by_hand(True)}


def label_maps(config: Config, folder: pathlib.Path) -> dict[str, tf.data.Dataset]:
    """Returns the batches of one epoch of 512x256 crops with labels, by contender."""
    size, crop = scene_sizes(config)
    photographs.label_maps(folder, config.scenes, size, np.random.default_rng(1))
    files = sorted(map(str, folder.glob("train/*.jpg")))
    maps = sorted(map(str, folder.glob("trainannot/*.png")))

    def by_hand(crop_first):
        class_of = tf.constant(range(12), "uint8")
        return hand_written.maps_pipeline(
            files, maps, class_of, crop, 8, crop_first, config.antialias
        )

    transform = segmentation.augment.random_scale_crop_flip(crop)
    ours = segmentation.open_dataset(folder).train.training_batches(
        8, transform, 0, range(1)
    )
    return {OURS: ours, WHOLE: by_hand(False), CROP: by_hand(True)}


def boxes(config: Config, folder: pathlib.Path) -> dict[str, tf.data.Dataset]:
    """Returns the batches of one epoch of 384x192 crops with boxes, by contender."""
    size, _ = scene_sizes(config)
    crop = 3 * size[0] // 8, 3 * size[1] // 8
    photographs.people(folder, config.scenes, size, np.random.default_rng(2))
    content = json.loads((folder / "people_train.json").read_text())
    files = [str(folder / "train" / image["file_name"]) for image in content["images"]]
    given = np.float32([record["bbox"] for record in content["annotations"]])
    corners = np.concatenate([given[:, :2], given[:, :2] + given[:, 2:]], axis=1)
    corners = corners.reshape(len(files), -1, 4)

    def by_hand(crop_first):
        return hand_written.boxes_pipeline(
            files, corners, crop, 8, crop_first, config.antialias
        )

    transform = detection.augment.random_scale_crop_flip(crop)
    source = detection.open_dataset(folder, min_height=1).train
    ours = source.training_batches(8, transform, 0, range(1))
    return {OURS: ours, WHOLE: by_hand(False), CROP: by_hand(True)}


TASKS = {"class folders": class_folders, "label maps": label_maps, "boxes": boxes}


def scene_sizes(config: Config) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the (height, width) of scenes and of crops."""
    height = 512 // config.shrink
    return (height, 2 * height), (height // 2, height)


def images_per_second(
    config: Config, contenders: Mapping[str, tf.data.Dataset]
) -> dict[str, list[float]]:
    """Returns the images per second of each contender in each round."""
    speeds = {name: [] for name in contenders}
    progress = keras.utils.Progbar(config.rounds + 1, unit_name="round")
    for _ in range(config.rounds + 1):
        for name, batches in contenders.items():
            epoch = iter(batches)
            next(epoch)
            started = time.perf_counter()
            count = sum(len(batch[0]) for batch in epoch)
            speeds[name].append(count / (time.perf_counter() - started))
        progress.add(1)
    return {name: times[1:] for name, times in speeds.items()}


def report(task: str, speeds: Mapping[str, Sequence[float]]) -> str:
    """Returns a table and ratios as text."""
    lines = [f"{task:<24}{'images/s':>9}  (min - max)"]
    for name, of_rounds in speeds.items():
        spread = f"({min(of_rounds):.0f} - {max(of_rounds):.0f})"
        lines.append(f"{name:<24}{statistics.median(of_rounds):>9.0f}  {spread}")
    for other in (WHOLE, CROP):
        ratios = [a / b for a, b in zip(speeds[OURS], speeds[other])]
        spread = f"({min(ratios):.2f} - {max(ratios):.2f})"
        middle = statistics.median(ratios)
        lines.append(f"{OURS} / {other:<24}{middle:>9.2f}  {spread}")
    return "\n".join(lines)


def main(config: Config) -> None:
    antialias = "with" if config.antialias else "without"
    print(
        f"{machine.describe()}\n{config.rounds} rounds, by hand {antialias} antialiasing"
    )
    for task, make in TASKS.items():
        with tempfile.TemporaryDirectory() as folder:
            speeds = images_per_second(config, make(config, pathlib.Path(folder)))
        print(f"\n{report(task, speeds)}", flush=True)


if __name__ == "__main__":
    app.run(main, flags_parser=eapp.make_flags_parser(Config))
