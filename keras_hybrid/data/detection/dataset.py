"""Images with boxes around people."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from absl import logging

from keras_hybrid.data.detection import augment
from keras_hybrid.data.sources import ArraySource, EncodedSource
from keras_hybrid.data.transforms import Transform


@dataclasses.dataclass(frozen=True)
class People:
    """The N annotated people of an image, in pixels of the upright image.

    Attributes:
        boxes: float64 (N, 4), [x, y, width, height] of the whole person, including what
            is occluded or outside the image.
        visibility: float64 (N,), visible fraction of the area of the box.
        ignored: bool (N,), boxes that count neither as missed nor as false positives:
            groups, riders, posters, and what an annotator could not identify.
        image_id: Id of the image in the annotations, a number or a string; None for the
            index of the image.
        category_id: Id of people in the annotations, a number or a string.
    """

    boxes: np.ndarray
    visibility: np.ndarray
    ignored: np.ndarray
    image_id: int | str | None = None
    category_id: int | str = 1


@dataclasses.dataclass(frozen=True)
class DetectionDataset:
    """Training and test images of a data set."""

    class_names: ClassVar[tuple[str, ...]] = ("background", "person")
    """Names of the class indices in a detection; index 0 means no detection."""

    train: "DetectionSource"
    test: "DetectionSource"


class DetectionSource:
    """A source, as described in `sources`, whose labels are boxes.

    Its batches are float32 (B, h, w, 3), raw RGB, and a dictionary that includes the
    ground truth on which `models.detection.faster_rcnn.FasterRCNN` is trained:

    - `"boxes"` float32 (B, G, 4), [x1, y1, x2, y2] in pixels of these images,
    - `"labels"` int32 (B, G): 1 for a person, -1 for a region to ignore, 0 for padding,
    - `"index"` int32 (B,), index of the image in `names` and `people`,
    - `"scale"` float32 (B, 2), the factors by which x and y were scaled.

    `transform` is one of those in `augment`.

    Args:
        source: Source of images whose labels are indices.
        names: Names of the images.
        people: A `People` for each image.
        min_height: Height in pixels of the original image below which people are ignored
            in training. 50 for CityPersons, whose evaluation ignores them too.
        left_out: Names of images that are left out because they are missing.
    """

    def __init__(
        self,
        source: ArraySource | EncodedSource,
        names: list[str],
        people: list[People],
        *,
        min_height: float,
        left_out: Sequence[str] = (),
    ) -> None:
        self._source, self._left_out = source, tuple(left_out)
        self.names, self.people = names, people
        self._image_ids = [
            index if of_image.image_id is None else of_image.image_id
            for index, of_image in enumerate(people)
        ]
        # One more than needed, so that there is at least one.
        most = 1 + max((len(of_image.boxes) for of_image in people), default=0)
        boxes = np.zeros((len(people), most, 4), "float32")
        labels = np.zeros((len(people), most), "int32")
        for index, of_image in enumerate(people):
            count = len(of_image.boxes)
            corners = of_image.boxes[:, :2] + of_image.boxes[:, 2:]
            boxes[index, :count] = np.concatenate([of_image.boxes[:, :2], corners], 1)
            counts = ~of_image.ignored & (of_image.boxes[:, 3] >= min_height)
            labels[index, :count] = np.where(counts, 1, -1)
        with tf.device("CPU"):
            self._boxes, self._labels = tf.constant(boxes), tf.constant(labels)

    def __len__(self) -> int:
        return len(self._source)

    @property
    def skipped(self) -> list[str]:
        """Names of images that were left out or could not be read so far."""
        return [*self._left_out, *self._source.skipped]

    def batches(self, batch_size: int, transform: Transform) -> tf.data.Dataset:
        """Batches of all images in order; see `sources`."""
        return self._source.batches(batch_size, self._with_boxes(transform))

    def training_batches(
        self,
        batch_size: int,
        transform: Transform,
        seed: int,
        epochs: range,
        context: tf.distribute.InputContext | None = None,
    ) -> tf.data.Dataset:
        """Shuffled batches of all `epochs`; see `sources`."""
        return self._source.training_batches(
            batch_size, self._with_boxes(transform), seed, epochs, context
        )

    def _with_boxes(self, transform):
        def truth_of(index):
            return self._boxes[index], self._labels[index]

        def box(size, index, seed):
            return transform.box(size, truth_of(index), seed)

        def finish(part, box, index, seed):
            truth = truth_of(index)
            image, geometry = transform.finish(part, box, truth, seed)
            boxes, labels = augment.move(*truth, geometry, tf.shape(image)[:2])
            scale = geometry[:2]
            return image, {
                "boxes": boxes,
                "labels": labels,
                "index": index,
                "scale": scale,
            }

        return Transform(box, finish)

    def names_of(self, truth: Mapping[str, Any]) -> list[str]:
        """Names of the images of a batch, given its dictionary."""
        return [self.names[index] for index in truth["index"]]

    @property
    def category_id(self) -> int | str:
        """Id of people in the annotations, see `People`."""
        return self.people[0].category_id

    def ground_truth(self) -> dict[str, list[dict[str, Any]]]:
        """Ground truth for `metrics.log_average_miss_rate`, with the annotations' ids.

        It is without images that could not be read so far, in which nobody can be found.
        """
        skipped = set(self.skipped)
        readable = [
            (image_id, of_image)
            for name, image_id, of_image in zip(
                self.names, self._image_ids, self.people, strict=True
            )
            if name not in skipped
        ]
        return {
            "images": [{"id": image_id} for image_id, _ in readable],
            "annotations": [
                {
                    "image_id": image_id,
                    "category_id": of_image.category_id,
                    "bbox": box.tolist(),
                    "height": float(box[3]),
                    "vis_ratio": float(visibility),
                    "ignore": int(ignored),
                }
                for image_id, of_image in readable
                for box, visibility, ignored in zip(
                    of_image.boxes, of_image.visibility, of_image.ignored, strict=True
                )
            ],
        }

    def with_given_ids(
        self, detections: Iterable[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Replaces image indices in detections by the ids of the annotations."""
        return [
            {
                **one,
                "image_id": self._image_ids[one["image_id"]],
                "category_id": self.category_id,
            }
            for one in detections
        ]


def source_of_files(
    paths: Sequence[pathlib.Path], people: Sequence[People], *, min_height: float
) -> DetectionSource:
    """A `DetectionSource` of image files; those that do not exist are left out.

    Raises:
        FileNotFoundError: If none of the files exists.
        ValueError: If none of a few files can be read.
    """
    there = [path.is_file() for path in paths]
    if not any(there):
        raise FileNotFoundError(
            f"The images must exist. Received: {len(paths)} names and none of the files, "
            f"such as {paths[0] if paths else 'none'}"
        )
    left_out = [str(path) for path, exists in zip(paths, there) if not exists]
    if left_out:
        logging.warning(
            "Leaving out %d missing images, such as %s",
            len(left_out),
            left_out[0],
        )
    people = [of_image for of_image, exists in zip(people, there) if exists]
    names = [str(path) for path, exists in zip(paths, there) if exists]
    with tf.device("CPU"):
        files = tf.constant([os.fsencode(name) for name in names])

    def examples(seed):
        order = tf.data.Dataset.range(len(names))
        if seed is not None:
            order = order.shuffle(len(names), seed)
        return order.map(lambda i: (files[i], files[i], tf.cast(i, "int32")))

    source = EncodedSource(examples, len(names), tf.io.read_file)
    source.check_readable()
    return DetectionSource(
        source, names, people, min_height=min_height, left_out=left_out
    )


def without_area(boxes: np.ndarray, size: tuple[float, float] | None) -> np.ndarray:
    """Which boxes cover no part of an image, bool (N,).

    Args:
        boxes: float64 (N, 4), [x, y, width, height] in pixels.
        size: Size (height, width) of the image in pixels; None if unknown.
    """
    empty = (boxes[:, 2:] <= 0).any(axis=1)
    if size is not None:
        ends = boxes[:, :2] + boxes[:, 2:]
        empty |= (ends <= 0).any(axis=1) | (boxes[:, :2] >= size[::-1]).any(axis=1)
    return empty
