"""Images, crops and evaluation of the study without TensorFlow.

NumPy and Pillow do here what the recipes do with `tf.data`: they sample the same kind of
random crops, with other random numbers, and evaluate in the same way.
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

from keras_hybrid.metrics import MeanIoU
from keras_hybrid.models.segmentation.deeplab_v2 import at_size, with_label_map

_TILES = 25, 40  # rows and columns of small images in a file
_PADDING = 4  # pixels around small images
_SCALE = 0.5, 1.5  # range of the scales of crops from photographs
MULTIPLE = 32  # pixels; evaluation pads photographs to multiples of it
_IGNORED = 255
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
        epochs: Number of epochs.
        steps_per_epoch: Number of full batches per epoch.
    """

    def __init__(self, config: Mapping[str, Any], folder: pathlib.Path) -> None:
        self._images, self._labels = read_small(folder, "train")
        self._test = read_small(folder, "test")
        self._config = config
        self.epochs = config["epochs"]
        self.steps_per_epoch = len(self._images) // config["batch_size"]

    def training_batches(self) -> Iterator[tuple[np.ndarray, Any]]:
        """Returns batches of crops shifted by a few pixels.

        They are mirrored in half of the cases.
        """
        sides = _PADDING, _PADDING
        padded = np.pad(self._images, [(0, 0), sides, sides, (0, 0)])
        size = self._images.shape[1]

        def crop(index, random):
            top, left = random.integers(0, 2 * _PADDING + 1, 2)
            image = padded[index, top : top + size, left : left + size]
            return image[:, :: random.choice([-1, 1])], self._labels[index]

        return batches(crop, len(self._images), self.epochs, self._config)

    def evaluate(self, student: keras.Model) -> dict[str, Any]:
        """Returns top-1 and top-5 accuracy in percent."""
        images, labels = self._test
        scores = student.predict(images.astype("float32"), batch_size=500, verbose=0)
        better = (scores > np.take_along_axis(scores, labels[:, None], axis=1)).sum(1)
        return {
            "training_images": len(self._images),
            "test_images": len(images),
            "top1": round(100 * float(np.mean(better < 1)), 3),
            "top5": round(100 * float(np.mean(better < 5)), 3),
        }


class SegmentationDataset:
    """Data set of the recipe `cityscapes`: CamVid-style folders, images of one size.

    Args:
        config: Fields of the recipe's `Config`.
        folder: Path of the data set.

    Attributes:
        epochs: Number of epochs: the steps rounded up to a whole one.
        steps_per_epoch: Number of full batches per epoch.
    """

    def __init__(self, config: Mapping[str, Any], folder: pathlib.Path) -> None:
        names = (folder / "classes.txt").read_text().split()
        self._names = [name for name in names if name != "Void"]
        self._train = self._read(folder, "train")
        self._test = self._read(folder, "test")
        self._config = config
        self.steps_per_epoch = len(self._train) // config["batch_size"]
        self.epochs = -(-config["steps"] // self.steps_per_epoch)

    def _read(self, folder, part):
        """Returns a list of (image, label map)."""
        pairs = []
        for file in sorted((folder / part).iterdir()):
            labels = np.asarray(Image.open(folder / f"{part}annot" / f"{file.stem}.png"))
            labels = np.where(labels < len(self._names), labels, _IGNORED)
            labels = Image.fromarray(labels.astype("uint8"))
            pairs.append((Image.open(file).convert("RGB"), labels))
        return pairs

    def training_batches(self) -> Iterator[tuple[np.ndarray, Any]]:
        """Returns batches of random crops at random scales.

        They are mirrored in half of the cases.
        """
        size = np.array([self._config["crop_width"], self._config["crop_height"]])

        def crop(index, random):
            image, labels = self._train[index]
            part = np.round(size / random.uniform(*_SCALE)).astype(int)
            room = np.maximum(image.size, part) - part + 1
            corner = (random.uniform(size=2) * room).astype(int)
            image = image.crop((*corner, *(corner + part)))
            canvas = Image.new("L", tuple(part), _IGNORED)
            canvas.paste(labels, tuple(-corner))
            image = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
            labels = np.asarray(canvas.resize(size, Image.Resampling.NEAREST))
            step = random.choice([-1, 1])
            return image[:, ::step], labels[:, ::step].astype("int32")

        return batches(crop, len(self._train), self.epochs, self._config)

    def evaluate(self, student: keras.Model) -> dict[str, Any]:
        """Returns mIoU and IoU of each class in percent.

        The IoU of a class that neither occurs nor is predicted is None.
        """
        width, height = self._test[0][0].size
        padding = [(0, -height % MULTIPLE), (0, -width % MULTIPLE)]
        size = height + padding[0][1], width + padding[1][1]
        network = with_label_map(at_size(student, *size))
        metric = MeanIoU(len(self._names))
        for image, labels in self._test:
            image = np.pad(np.asarray(image, "float32"), [*padding, (0, 0)])
            labels = np.pad(np.asarray(labels), padding, constant_values=_IGNORED)
            metric.update_state(labels[None], network.predict_on_batch(image[None]))
        iou = dict(zip(self._names, 100 * metric.result_per_class()))
        return {
            "training_images": len(self._train),
            "test_images": len(self._test),
            "miou": round(100 * float(metric.result()), 3),
            "iou": {
                name: None if np.isnan(value) else round(float(value), 3)
                for name, value in iou.items()
            },
        }


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
