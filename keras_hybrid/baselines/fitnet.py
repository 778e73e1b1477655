"""FitNet: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_hybrid.baselines.transfer_loss import TransferLoss
from keras_hybrid.hybrid.adapters import Adapter, may_differ
from keras_hybrid.training.types import Tensor


@keras.saving.register_keras_serializable("keras_hybrid")
class FitNet(TransferLoss):
    """1/2 (regressor(student) - teacher)^2 of the middle stage (Eq. 3).

    It is the mean over a feature map's elements, not their sum, so that one weight fits
    images of any size. The paper trains with this loss first and with the task's loss
    afterwards; here a step minimises both. The regressor is a 1x1 convolution.

    Args:
        weight: Factor of the loss.
    """

    takes = "stages"

    def __init__(self, weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(weight, **kwargs)

    def build(
        self,
        teacher_maps_shape: Sequence[Sequence[int | None]],
        student_maps_shape: Sequence[Sequence[int | None]],
    ) -> None:
        self._middle = (len(teacher_maps_shape) - 1) // 2
        teacher_shape = teacher_maps_shape[self._middle]
        student_shape = student_maps_shape[self._middle]
        self.regressor = Adapter(
            teacher_shape[-1],
            may_differ(teacher_shape, student_shape),
            dtype=self.dtype_policy,
            name="regressor",
        )
        self.regressor.build(student_shape)

    def call(
        self, teacher_maps: Sequence[Tensor], student_maps: Sequence[Tensor]
    ) -> Tensor:
        teacher, student = teacher_maps[self._middle], student_maps[self._middle]
        student = self.regressor(student, size=ops.shape(teacher)[1:3])
        difference = ops.cast(student, "float32") - ops.cast(teacher, "float32")
        return self.weight * ops.mean(ops.square(difference)) / 2
