"""Data sets of the study where TensorFlow is missing.

Crops and evaluation are those of the recipes. NumPy draws the random numbers, which are
others than TensorFlow's.
"""

import collections
import concurrent.futures
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from PIL import Image

from keras_hybrid.data import random_crops
from keras_hybrid.models.segmentation import evaluation

_TILES = 25, 40  # rows and columns of small images in a file
MULTIPLE = 32  # pixels; evaluation pads photographs to multiples of it
_AHEAD, _THREADS = 8, 2  # batches made in advance, and threads that make them


def pack_small(path: str | os.PathLike, folder: pathlib.Path) -> None:
    """Writes the small images of an .npz as sheets in lossless WebP, half as large."""
    folder.mkdir()
    with np.load(path) as arrays:
        for part in ("train", "test"):
            images = arrays[f"x_{part}"]
            np.save(folder / f"{part}.npy", arrays[f"y_{part}"].reshape(-1))
            rows, columns = _TILES
            for i in range(0, len(images), rows * columns):
                tiles = images[i : i + rows * columns]
                size = tiles.shape[1]
                tiles = tiles.reshape(rows, columns, size, size, 3).swapaxes(1, 2)
                sheet = Image.fromarray(tiles.reshape(rows * size, columns * size, 3))
                sheet.save(folder / f"{part}_{i:05}.webp", lossless=True, quality=50)


def read_small(folder: pathlib.Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images uint8 (N, size, size, 3) and labels (N,) that were packed."""
    rows, columns = _TILES
    images = []
    for file in sorted(folder.glob(f"{part}_*.webp")):
        sheet = np.asarray(Image.open(file).convert("RGB"))
        size = len(sheet) // rows
        tiles = sheet.reshape(rows, size, columns, size, 3).swapaxes(1, 2)
        images.append(tiles.reshape(-1, size, size, 3))
    return np.concatenate(images), np.load(folder / f"{part}.npy")


class SmallImages:
    """Data set of the recipe `imagenet`, as `pack_small` wrote it.

    Args:
        config: Fields of the recipe's `Config`.
        folder: Folder that `pack_small` wrote.

    Attributes:
        steps_per_epoch: Number of full batches per epoch.
    """

    def __init__(self, config: Mapping[str, Any], folder: pathlib.Path) -> None:
        self._images, self._labels = read_small(folder, "train")
        self._test = read_small(folder, "test")
        self._config = config
        self.steps_per_epoch = len(self._images) // config["batch_size"]

    def training_batches(self, epochs: int) -> Iterator[tuple[np.ndarray, Any]]:
        """Returns batches of crops shifted by a few pixels.

        They are mirrored in half of the cases.
        """

        def crop(index, random):
            corner = random.integers(0, 2 * random_crops.PADDING + 1, 2)
            mirrored = random.choice([-1, 1]) < 0
            image = random_crops.shifted(
                self._images[index], corner, random_crops.PADDING, mirrored
            )
            return image, self._labels[index]

        return batches(crop, len(self._images), epochs, self._config)

    def evaluate(self, model: keras.Model) -> dict[str, Any]:
        """Returns top-1 and top-5 accuracy in percent, the metrics of the model."""
        images, labels = self._test
        values = model.evaluate(
            images.astype("float32"), labels, batch_size=500, return_dict=True, verbose=0
        )
        return {
            "training_images": len(self._images),
            "test_images": len(images),
            **{name: round(100 * float(values[name]), 3) for name in ("top1", "top5")},
        }


class LabelMaps:
    """Data set of the recipe `cityscapes`: CamVid-style folders.

    Args:
        config: Fields of the recipe's `Config`.
        folder: Path of the data set.

    Attributes:
        steps_per_epoch: Number of full batches per epoch.
    """

    def __init__(self, config: Mapping[str, Any], folder: pathlib.Path) -> None:
        names = (folder / "classes.txt").read_text().split()
        self._names = tuple(name for name in names if name != "Void")
        self._train = self._read(folder, "train")
        self._test = self._read(folder, "test")
        self._config = config
        self.steps_per_epoch = len(self._train) // config["batch_size"]

    def _read(self, folder, part):
        """Returns a list of (image, label map)."""
        pairs = []
        for file in sorted((folder / part).iterdir()):
            labels = np.asarray(Image.open(folder / f"{part}annot" / f"{file.stem}.png"))
            labels = np.where(labels < len(self._names), labels, random_crops.IGNORED)
            image = np.asarray(Image.open(file).convert("RGB"))
            pairs.append((image, labels.astype("uint8")))
        return pairs

    def training_batches(self, epochs: int) -> Iterator[tuple[np.ndarray, Any]]:
        """Returns batches of random crops at random scales.

        They are mirrored in half of the cases.
        """
        size = self._config["crop_height"], self._config["crop_width"]

        def crop(index, random):
            image, labels = self._train[index]
            image_size = np.array(labels.shape)
            scale = random.uniform(*random_crops.LABEL_MAP_SCALES)
            place = random.uniform(size=2)[::-1]
            mirrored = random.choice([-1, 1]) < 0
            box = random_crops.box_anywhere(image_size, size, scale, place)
            parts = random_crops.cut(image, box), random_crops.cut(labels, box)
            image, labels = random_crops.with_label_map(*parts, box, size, mirrored)
            return image, labels.astype("int32")

        return batches(crop, len(self._train), epochs, self._config)

    def evaluate(self, model: keras.Model) -> dict[str, Any]:
        """Returns mIoU and IoU of each class in percent."""
        results = evaluation.mean_iou(
            evaluation.label_maps_of(getattr(model, "student", model)),
            self._test_batches(),
            len(self._test),
            self._names,
        )
        return {
            "training_images": len(self._train),
            "test_images": len(self._test),
            **results,
        }

    def _test_batches(self):
        for image, labels in self._test:
            least = -(-np.array(labels.shape) // MULTIPLE) * MULTIPLE
            image, labels = random_crops.padded_with_labels(image, labels, least)
            yield image[None].astype("float32"), labels[None]


def batches(
    crop: Callable[[int, np.random.Generator], tuple[np.ndarray, Any]],
    count: int,
    epochs: int,
    config: Mapping[str, Any],
) -> Iterator[tuple[np.ndarray, Any]]:
    """Yields the batches of all epochs, a few of which threads make in advance.

    Args:
        crop: Function from an index and a random generator to an image and its labels.
        count: Number of images; an epoch has each one at most once.
        epochs: Number of epochs.
        config: Fields of the recipe's `Config`, `"batch_size"` and `"seed"` among them.
    """
    size, seed = config["batch_size"], config["seed"]

    def batch(epoch, step):
        order = np.random.default_rng((seed, epoch)).permutation(count)
        random = np.random.default_rng((seed, epoch, step))
        chosen = order[step * size : (step + 1) * size]
        images, labels = zip(*(crop(index, random) for index in chosen))
        labels = keras.tree.map_structure(lambda *x: np.stack(x), *labels)
        return np.stack(images).astype("float32"), labels

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        waiting = collections.deque()
        for step in range(epochs * (count // size)):
            waiting.append(pool.submit(batch, *divmod(step, count // size)))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
