"""Pairs of networks whose steps `step_time.py` times, each with a batch of noise."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from keras_hybrid import applications
from keras_hybrid.models.detection.faster_rcnn import FasterRCNN
from keras_hybrid.models.segmentation.deeplab_v2 import deeplab_v2
from keras_hybrid.models.segmentation.dilation import dilate
from keras_hybrid.recipes import cityscapes

_CLASSES, _STREET_CLASSES = 1000, 19
_PEOPLE = 4  # in an image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """What the steps of a task need.

    Attributes:
        teacher: Builds the teacher up to the joint, which is all that paths use of it.
        student: Builds the student.
        images, targets: A batch.
        loss: What `compile` takes; None if the student has its own.
        switch_points: From the two networks to what `HybridTransfer` takes.
    """

    teacher: Callable
    student: Callable
    images: np.ndarray
    targets: np.ndarray | dict
    loss: str | keras.losses.Loss | None
    switch_points: Callable


def build(task, teacher, student, size, batch_size, switch_points):
    """The `Pair` of a task: classification, segmentation or detection.

    Args:
        task: Square images of `size`; or streets of that height, twice as wide, for
            DeepLab v2 at stride 8, or for Faster R-CNN at its full width.
        teacher, student: Names in Keras Applications.
        size: Pixels.
        batch_size: Images.
        switch_points: Strides; None for all that both networks have.
    """
    rng = np.random.default_rng(0)
    width = size if task == "classification" else 2 * size
    shape = (batch_size, size, width, 3)
    images = rng.uniform(0, 255, shape).astype("float32")

    def load(name, **kwargs):
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
        parts["switch_points"] = cityscapes.switch_points
    else:
        parts["student"] = lambda: FasterRCNN(load(student))
        parts["targets"] = _people(rng, batch_size, size, width)
        parts["loss"] = None
    return Pair(**parts)


def _people(rng, count, height, width):
    """Upright boxes anywhere in the images, as a detector learns them."""
    heights = rng.uniform(height / 4, height / 2, (count, _PEOPLE))
    x = rng.uniform(0, width - heights / 2.44)
    y = rng.uniform(0, height - heights)
    boxes = np.stack([x, y, x + heights / 2.44, y + heights], axis=-1)
    labels = np.ones((count, _PEOPLE), "int32")
    return {"boxes": boxes.astype("float32"), "labels": labels}
