"""AT: Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_hybrid.baselines.transfer_loss import TransferLoss, unit_vectors
from keras_hybrid.hybrid.adapters import may_differ, resize, supports_jit
from keras_hybrid.training.types import Tensor


@keras.saving.register_keras_serializable("keras_hybrid")
class AttentionTransfer(TransferLoss):
    """weight / 2 * mean((q_student - q_teacher)^2), summed over stages.

    q is the sum of squares over the channels of a stage's feature map, as a vector of
    length 1; the mean is over its elements and the images. Eq. 2 of the paper has
    beta / 2 times the norm (p = 2) of the difference, not its square, with beta =
    1000 / (elements x images). The authors' code squares, as here, but does not halve: it
    has beta times the mean of squares, with `--beta 1e+3`. So the weight is 1000 by the
    paper and 2000 by the code.

    Args:
        weight: Factor of the loss.
    """

    takes = "stages"

    def __init__(self, weight: float = 1000.0, **kwargs: Any) -> None:
        super().__init__(weight, **kwargs)

    def build(
        self,
        teacher_maps_shape: Sequence[Sequence[int | None]],
        student_maps_shape: Sequence[Sequence[int | None]],
    ) -> None:
        """Builds nothing: attention has no weights."""
        shapes = zip(teacher_maps_shape, student_maps_shape, strict=True)
        self.supports_jit = supports_jit(any(may_differ(*pair) for pair in shapes))

    def call(
        self, teacher_maps: Sequence[Tensor], student_maps: Sequence[Tensor]
    ) -> Tensor:
        loss = 0.0
        for teacher, student in zip(teacher_maps, student_maps, strict=True):
            teacher, student = _energy(teacher), _energy(student)
            student = resize(student, ops.shape(teacher)[1:3])
            difference = unit_vectors(student) - unit_vectors(teacher)
            loss += ops.mean(ops.square(difference)) / 2
        return self.weight * loss


def _energy(x):
    """(B, H, W, C) -> (B, H, W, 1)"""
    return ops.sum(ops.square(ops.cast(x, "float32")), axis=-1, keepdims=True)
