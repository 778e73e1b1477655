"""Images with people, crops and evaluation of the study without TensorFlow.

NumPy and Pillow do here what the recipe `citypersons` does with `tf.data`: they sample
the same kind of random crops, with other random numbers, and evaluate in the same way.
"""

import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from PIL import Image
from study_arrays import MULTIPLE, batches

from keras_hybrid.metrics import Subset, log_average_miss_rate
from keras_hybrid.models.detection.faster_rcnn import with_detections

_FILE = "people.json"
_SUBSETS = "reasonable", "reasonable_small", "heavy", "all"
_SCALE, _BRIGHTNESS = (0.4, 1.5), (0.5, 2.0)  # ranges for crops
_INSIDE = 0.5  # people with less of their area inside a crop are ignored


def pack_people(config: Any, data: Any, folder: pathlib.Path) -> None:
    """Writes the annotations of a data set into a copy of its folder.

    Args:
        config: `Config` of the recipe.
        data: `DetectionDataset` that the recipe opened in `config.data_dir`.
        folder: Copy of that folder.
    """

    def names(source):
        return [str(pathlib.Path(n).relative_to(config.data_dir)) for n in source.names]

    def truth_of(people):
        corners = people.boxes[:, :2], people.boxes[:, :2] + people.boxes[:, 2:]
        ignored = people.ignored | (people.boxes[:, 3] < config.min_height)
        return {
            "boxes": np.concatenate(corners, axis=1).tolist(),
            "labels": np.where(ignored, -1, 1).tolist(),
        }

    content = {
        "train": names(data.train),
        "people": [truth_of(people) for people in data.train.people],
        "test": names(data.test),
        "ground_truth": data.test.ground_truth(),
    }
    (folder / _FILE).write_text(json.dumps(content))


def _padded_size(size, upscale):
    """Returns the (height, width) of an enlarged, padded image of (width, height)."""
    return tuple(-(-round(n * upscale) // MULTIPLE) * MULTIPLE for n in size[::-1])


class PeopleBoxes:
    """Data set of the recipe `citypersons`, with annotations that `pack_people` wrote.

    Args:
        config: Fields of the recipe's `Config`.
        folder: Folder of the images and the annotations.

    Attributes:
        epochs: Number of epochs: the steps rounded up to a whole one.
        steps_per_epoch: Number of full batches per epoch.
        sizes: (height, width) of crops and of padded test images.
        ground_truth: COCO-style ground truth of the test images.
        subsets: Subsets for `log_average_miss_rate`, by name.
        detections: COCO-style detections of the last `evaluate`, or None.
    """

    def __init__(self, config: Mapping[str, Any], folder: pathlib.Path) -> None:
        content = json.loads((folder / _FILE).read_text())
        self._train = [
            (Image.open(folder / name).convert("RGB"), truth)
            for name, truth in zip(content["train"], content["people"])
        ]
        test = (Image.open(folder / name) for name in content["test"])
        self._test = [image.convert("RGB") for image in test]
        self._most = max(len(truth["labels"]) for truth in content["people"])
        self.ground_truth, self.detections = content["ground_truth"], None
        trained_on = Subset((config["min_height"], math.inf))
        self.subsets = {**{name: name for name in _SUBSETS}, "learned": trained_on}
        self._config = config
        tested = {_padded_size(image.size, config["upscale"]) for image in self._test}
        self.sizes = [(config["crop_height"], config["crop_width"]), *tested]
        self.steps_per_epoch = len(self._train) // config["batch_size"]
        self.epochs = -(-config["steps"] // self.steps_per_epoch)

    def training_batches(self) -> Iterator[tuple[np.ndarray, Any]]:
        """Returns batches of random crops at random scales and brightness.

        They are mirrored in half of the cases.
        """
        return batches(self._crop, len(self._train), self.epochs, self._config)

    def _crop(self, index, random):
        image, truth = self._train[index]
        boxes = np.reshape(truth["boxes"], (-1, 2, 2))
        labels = np.array(truth["labels"], "int32")
        size = np.array([self._config["crop_width"], self._config["crop_height"]])
        scale = self._config["upscale"] * random.uniform(*_SCALE)
        part = np.round(size / scale).astype(int)
        room = np.maximum(image.size, part) - part
        corner = _corner(boxes[labels > 0], part, room, random)
        image = image.crop((*corner, *(corner + part)))
        image = np.asarray(image.resize(size, Image.Resampling.BILINEAR), "float32")
        if random.uniform() < 0.5:
            image = np.clip(random.uniform(*_BRIGHTNESS) * image, 0, 255)
        boxes = (boxes - corner) * (size / part)
        if random.uniform() < 0.5:
            image = image[:, ::-1]
            boxes[..., 0] = size[0] - boxes[:, ::-1, 0]
        inner = np.clip(boxes, 0, size)
        area, inside = (np.prod(x[:, 1] - x[:, 0], axis=-1) for x in (boxes, inner))
        labels = np.where((labels > 0) & (inside < _INSIDE * area), -1, labels)
        labels = np.where(inside > 0, labels, 0)
        padding = (0, self._most - len(labels))
        inner = np.pad(inner.reshape(-1, 4), [padding, (0, 0)])
        labels = np.pad(labels, padding)
        return image, {"boxes": inner.astype("float32"), "labels": labels}

    def evaluate(self, student: keras.Model) -> dict[str, Any]:
        """Returns MR^-2 in percent on each subset, None for subsets without people."""
        networks, self.detections = {}, []
        upscale = self._config["upscale"]
        for truth, image in zip(self.ground_truth["images"], self._test):
            size = _padded_size(image.size, upscale)
            image = image.resize(
                [round(n * upscale) for n in image.size], Image.Resampling.BILINEAR
            )
            image = np.asarray(image, "float32")
            padding = [(0, n - m) for n, m in zip(size, image.shape)]
            if size not in networks:
                networks[size] = with_detections(student, *size)
            batch = np.pad(image, [*padding, (0, 0)])[None]
            found = networks[size].predict_on_batch(batch)
            for box, score in zip(found["boxes"][0] / upscale, found["scores"][0]):
                if score > 0:
                    x, y, right, bottom = map(float, box)
                    box = [x, y, right - x, bottom - y]
                    of_image = {"image_id": truth["id"], "category_id": 1}
                    self.detections.append(
                        {**of_image, "bbox": box, "score": float(score)}
                    )
        rates = {
            name: log_average_miss_rate(self.ground_truth, self.detections, subset)
            for name, subset in self.subsets.items()
        }
        return {
            "training_images": len(self._train),
            "test_images": len(self._test),
            "miss_rate": {
                name: None if np.isnan(rate) else round(rate, 2)
                for name, rate in rates.items()
            },
        }


def _corner(people, part, room, random):
    """Samples left and top of a crop with a randomly sampled person, if there is one.

    Args:
        people: Corners of people's boxes (N, 2, 2).
        part: Width and height of the crop.
        room: Largest left and top.
        random: Random generator.
    """
    low, high = np.zeros(2), room
    if len(people):
        first, last = random.choice(people)
        one, other = np.clip(first, 0, room), np.clip(last - part, 0, room)
        low, high = np.minimum(one, other), np.maximum(one, other)
    corner = low + random.uniform(size=2) * (high - low + 1)
    return np.minimum(corner.astype(int), room)
