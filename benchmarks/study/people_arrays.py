"""Data set of the study with people, where TensorFlow is missing; see `arrays`."""

import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from PIL import Image

from benchmarks.study.arrays import MULTIPLE, batches
from keras_hybrid.data import random_crops
from keras_hybrid.metrics import Subset
from keras_hybrid.models.detection import evaluation

_FILE = "people.json"


def pack_people(
    config: Any,
    data: Any,
    subsets: Mapping[str, str | Subset],
    folder: pathlib.Path,
) -> None:
    """Writes the annotations of a data set into a copy of its folder.

    Args:
        config: `Config` of the recipe.
        data: `DetectionDataset` that the recipe opened in `config.data_dir`.
        subsets: Subsets for `log_average_miss_rate`, by name.
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
        "subsets": subsets,
    }
    (folder / _FILE).write_text(json.dumps(content))


class PeopleBoxes:
    """Data set of the recipe `citypersons`, with annotations that `pack_people` wrote.

    Args:
        config: Fields of the recipe's `Config`.
        folder: Folder of the images and the annotations.

    Attributes:
        steps_per_epoch: Number of full batches per epoch.
        subsets: Subsets for `log_average_miss_rate`, by name.
        category_id: Id of people in the annotations.
        detections: COCO-style detections of the last `evaluate`, or None. The id of an
            image is its index.
    """

    category_id = 1

    def __init__(self, config: Mapping[str, Any], folder: pathlib.Path) -> None:
        content = json.loads((folder / _FILE).read_text())
        self._train = [
            (
                _read(folder / name),
                np.reshape(people["boxes"], (-1, 4)).astype("float32"),
                np.array(people["labels"], "int32"),
            )
            for name, people in zip(content["train"], content["people"])
        ]
        self._test = [_read(folder / name) for name in content["test"]]
        self._most = max(len(labels) for _, _, labels in self._train)
        self._ground_truth, self.detections = content["ground_truth"], None
        self.subsets = {
            name: subset if isinstance(subset, str) else Subset(*subset)
            for name, subset in content["subsets"].items()
        }
        self._config = config
        self.steps_per_epoch = len(self._train) // config["batch_size"]

    def training_batches(self, epochs: int) -> Iterator[tuple[np.ndarray, Any]]:
        """Returns batches of random crops at random scales and brightness.

        They are mirrored in half of the cases.
        """
        return batches(self._crop, len(self._train), epochs, self._config)

    def _crop(self, index, random):
        image, boxes, labels = self._train[index]
        size = self._config["crop_height"], self._config["crop_width"]
        scale = self._config["upscale"] * random.uniform(*random_crops.PEOPLE_SCALES)
        people = boxes[labels > 0]
        around = random.choice(people) if len(people) else np.zeros(4, "float32")
        place = random.uniform(size=2)[::-1]
        changes = random.uniform() < 0.5
        brightness = random.uniform(*random_crops.BRIGHTNESS) if changes else 1.0
        mirrored = random.uniform() < 0.5
        image_size = np.array(image.shape[:2])
        box = random_crops.box_with_object(
            image_size, size, scale, place, len(people) > 0, around
        )
        part = random_crops.cut(image, box)
        image, geometry = random_crops.with_people(part, box, size, mirrored, brightness)
        boxes, labels = random_crops.move(boxes, labels, geometry, size)
        padding = (0, self._most - len(labels))
        boxes, labels = np.pad(boxes, [padding, (0, 0)]), np.pad(labels, padding)
        return image, {"boxes": boxes, "labels": labels}

    def evaluate(self, model: keras.Model) -> dict[str, Any]:
        """Returns MR^-2 in percent on each subset, None for subsets without people."""
        self.detections = evaluation.detections_of(
            getattr(model, "student", model), self._test_batches(), len(self._test)
        )
        rates, _ = evaluation.miss_rates(self, self.detections, self.subsets)
        return {
            "training_images": len(self._train),
            "test_images": len(self._test),
            "miss_rate": rates,
        }

    def ground_truth(self) -> dict[str, Any]:
        """Returns the COCO-style ground truth of the test images."""
        return self._ground_truth

    def with_given_ids(self, detections: Iterable[Mapping[str, Any]]) -> list[Any]:
        """Replaces image indices in detections by the ids of the annotations."""
        ids = [image["id"] for image in self._ground_truth["images"]]
        return [{**one, "image_id": ids[one["image_id"]]} for one in detections]

    def _test_batches(self):
        for index, image in enumerate(self._test):
            image, geometry = random_crops.enlarged(
                image, self._config["upscale"], MULTIPLE
            )
            yield image[None], {"index": [index], "scale": [geometry[:2]]}


def _read(path):
    return np.asarray(Image.open(path).convert("RGB"))
