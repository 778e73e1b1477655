"""The logits of two classifiers, whatever function they end in."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_hybrid.baselines.output_kind import SIGMOID, SOFTMAX, output_kind
from keras_hybrid.hybrid import checks, graph
from keras_hybrid.hybrid.stages import has_backbone
from keras_hybrid.training.types import Tensor

# Height and width at which networks for images of any size are tried: large enough for
# all of Keras Applications, and a multiple of every output stride.
_UNKNOWN_IMAGE_SIZE = 128

# Smaller probabilities are raised to this. Float16 has none below, and near 1, where
# sigmoids saturate, float32 is no finer. A softmax in float32 does have smaller ones, but
# the gradient of its logarithm, 1 / p, must stay finite.
_SMALLEST, _SMALLEST_FLOAT32 = 2.0**-25, 1e-30


@dataclasses.dataclass(frozen=True)
class Logits:
    """Runs a network and returns its predictions and a list of their logits.

    Attributes:
        model: The network.
        dtype: Dtype of the images that it takes.
        kind: What it ends in, as `output_kind` names it.
        shape: Shape of its outputs with None for the batch.
        binary: Whether its classes are independent. If so, the logits are (B, ..., C, 2),
            for the absence and presence of a class, and otherwise (B, ..., C).
    """

    model: keras.Model
    dtype: str
    kind: str
    shape: tuple[int | None, ...]
    binary: bool

    @property
    def shapes(self) -> list[tuple[int | None, ...]]:
        """Shape of the logits with None for the batch, as a list of one."""
        return [(*self.shape, 2) if self.binary else self.shape]

    def __call__(self, images: Tensor, training: bool) -> tuple[Any, list[Tensor]]:
        """Returns the predictions for images (B, H, W, C), and a list of the logits."""
        y_pred = self.model(ops.cast(images, self.dtype), training=training)
        return y_pred, self.of(y_pred)

    def of(self, y_pred: Any) -> list[Tensor]:
        """Returns a list of the logits of predictions."""
        (outputs,) = keras.tree.flatten(y_pred)
        logits = _as_logits(outputs, self.kind)
        if self.binary:
            # softmax(0, z) is (1 - sigmoid(z), sigmoid(z)).
            logits = ops.stack([ops.zeros_like(logits), logits], axis=-1)
        return [logits]


def _as_logits(outputs, kind):
    is_float16 = keras.backend.standardize_dtype(outputs.dtype) == "float16"
    outputs = ops.cast(outputs, "float32")
    if kind == SOFTMAX:
        smallest = _SMALLEST if is_float16 else _SMALLEST_FLOAT32
        return ops.log(ops.maximum(outputs, smallest))  # softmax(log p) is p
    if kind == SIGMOID:
        presence, absence = (ops.maximum(p, _SMALLEST) for p in (outputs, 1 - outputs))
        return ops.log(presence) - ops.log(absence)
    return outputs


def logits_of(
    teacher: keras.Model,
    student: keras.Model,
    preprocess: Callable[[Tensor], Tensor] | None,
) -> list[Logits]:
    """Makes the `Logits` of a teacher and a student.

    What each ends in is seen from its values, not from its layers (`output_kind`). If
    one of the two ends in sigmoids, the other's logits are those of sigmoids as well.

    Args:
        teacher, student: Two `keras.Model`s of any kind with one output.
        preprocess: Preprocessing of the teacher's images, or None.

    Raises:
        TypeError, ValueError: Their outputs cannot be compared; the message says why.
    """
    checks.check_pair(teacher, student)
    of_teacher, of_student = _input(teacher, "teacher"), _input(student, "student")
    images = ops.cast(_noise(of_teacher, of_student, preprocess), of_student.dtype)
    student_end = output_kind(student, "student", images)
    if preprocess is not None:
        images = preprocess(images)
    teacher_end = output_kind(teacher, "teacher", ops.cast(images, of_teacher.dtype))
    kinds = {student_end[0], teacher_end[0]}
    if kinds == {SOFTMAX, SIGMOID}:
        raise ValueError(
            "KD must have two networks that end alike: in a softmax over "
            "classes, or in a sigmoid for each class. Received: "
            f"teacher={teacher.name!r} with a {teacher_end[0]} and "
            f"student={student.name!r} with a {student_end[0]}. End one of them in logits"
        )
    binary = SIGMOID in kinds
    return [
        Logits(teacher, of_teacher.dtype, *teacher_end, binary),
        Logits(student, of_student.dtype, *student_end, binary),
    ]


def _noise(of_teacher, of_student, preprocess):
    """Images of noise (2, H, W, C): one in 0..255, one in 0..1."""
    _, *size, channels = of_student.shape
    if preprocess is None:
        size = [a or b for a, b in zip(size, of_teacher.shape[1:3], strict=True)]
    shape = (2, *(n or _UNKNOWN_IMAGE_SIZE for n in size), channels)
    images = np.random.default_rng(0).uniform(0, 255, shape)
    return images / np.reshape([1, 255], (2, 1, 1, 1))


def _input(model, argument):
    """The `KerasTensor` of the images that a model takes, or was built for."""
    functional = graph.functional(model.backbone if has_backbone(model) else model)
    if functional is not None:
        tensors = functional.inputs
    else:
        shape = (model.get_build_config() or {}).get("input_shape") or ()
        is_one = all(n is None or isinstance(n, int) for n in shape)
        tensors = [keras.KerasTensor(shape)] if is_one else []
    if len(tensors) != 1 or len(tensors[0].shape) != 4:
        raise ValueError(
            f"`{argument}` must take one batch of images (B, H, W, C), and be built. "
            f"Received: {argument}={model.name!r} with input shapes "
            f"{[tuple(tensor.shape) for tensor in tensors]}"
        )
    return tensors[0]
