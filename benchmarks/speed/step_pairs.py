"""Pairs of networks for `step_time.py`, each with a batch of noise."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from benchmarks.transformers import vit
from keras_hybrid import applications
from keras_hybrid.models.detection.faster_rcnn import FasterRCNN
from keras_hybrid.models.segmentation.deeplab_v2 import deeplab_v2
from keras_hybrid.models.segmentation.dilation import dilate, undilated_switch_points

_CLASSES, _STREET_CLASSES = 1000, 19
_PEOPLE = 4  # per image
VIT = "ViT-S/16"
"""Name of a plain transformer of 12 blocks and 384 channels, of Keras's own layers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Networks and batch of a task.

    Attributes:
        teacher: Function that builds the teacher up to the joint, which is all that paths
            use of it.
        student: Function that builds the student.
        images, targets: A batch.
        loss: Loss for `compile`; None if the student has its own.
        switch_points: Function from the two networks to the `switch_points` of
            `HybridTransfer`.
    """

    teacher: Callable[[], keras.Model]
    student: Callable[[], keras.Model]
    images: np.ndarray
    targets: np.ndarray | dict[str, np.ndarray]
    loss: str | keras.losses.Loss | None
    switch_points: Callable[[keras.Model, keras.Model], Any]


def build(
    task: str,
    teacher: str,
    student: str,
    size: int,
    batch_size: int,
    switch_points: tuple[int, ...] | None,
) -> Pair:
    """Returns the `Pair` of a task.

    Args:
        task: `"classification"` of square images, `"segmentation"` by DeepLab v2 at
            stride 8, or `"detection"` by Faster R-CNN at its full width. The images of
            the latter two are twice as wide as high.
        teacher, student: Names of networks in Keras Applications; the teacher may also be
            `VIT`.
        size: Height of the images in pixels.
        batch_size: Number of images.
        switch_points: Strides, or None for all that both networks have. Segmentation has
            its own.
    """
    rng = np.random.default_rng(0)
    width = size if task == "classification" else 2 * size
    shape = (batch_size, size, width, 3)
    images = rng.uniform(0, 255, shape).astype("float32")

    def load(name, **kwargs):
        if name == VIT:
            return vit(384, 12, 16, heads=6, size=size, classes=None)
        return applications.load(name, weights=None, input_shape=shape[1:], **kwargs)

    parts = {
        "teacher": lambda: load(teacher),
        "images": images,
        "switch_points": lambda *_: switch_points,
    }
    if task == "classification":
        parts["student"] = lambda: load(student, classes=_CLASSES)
        parts["targets"] = rng.integers(0, _CLASSES, batch_size)
        parts["loss"] = "sparse_categorical_crossentropy"
    elif task == "segmentation":
        parts["teacher"] = lambda: dilate(load(teacher), 8)
        parts["student"] = lambda: deeplab_v2(load(student), _STREET_CLASSES)
        parts["targets"] = rng.integers(0, _STREET_CLASSES, shape[:3]).astype("uint8")
        parts["loss"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        parts["switch_points"] = undilated_switch_points
    else:
        parts["student"] = lambda: FasterRCNN(load(student))
        parts["targets"] = _people(rng, batch_size, size, width)
        parts["loss"] = None
    return Pair(**parts)


def _people(rng, count, height, width):
    """Returns upright boxes at random places, as ground truth for `FasterRCNN`."""
    heights = rng.uniform(height / 4, height / 2, (count, _PEOPLE))
    x = rng.uniform(0, width - heights / 2.44)
    y = rng.uniform(0, height - heights)
    boxes = np.stack([x, y, x + heights / 2.44, y + heights], axis=-1)
    labels = np.ones((count, _PEOPLE), "int32")
    return {"boxes": boxes.astype("float32"), "labels": labels}
