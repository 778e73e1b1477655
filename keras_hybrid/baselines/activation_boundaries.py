"""AB: Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries Formed by
Hidden Neurons", AAAI 2019."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_hybrid.baselines.connector import build_connectors, connected
from keras_hybrid.baselines.transfer_loss import TransferLoss
from keras_hybrid.training.types import Tensor

_MARGIN = 1.0


@keras.saving.register_keras_serializable("keras_hybrid")
class ActivationBoundaries(TransferLoss):
    """A squared hinge loss on whether each of the teacher's neurons is active (Eq. 5).

    Let r be the student's feature map after a connector; both networks' maps are taken
    before their activation functions. The loss is relu(1 - r)^2 where the teacher's
    neuron is active and relu(1 + r)^2 elsewhere, averaged over a map's elements and
    summed over stages. The authors sum over elements and give each stage half the weight
    of the next, which has half as many elements, so that the result is the same. The
    paper trains with this loss first and with the task's loss afterwards; here a step
    minimises both.

    Args:
        weight: Factor of the loss.
    """

    takes = "before_activation"

    def __init__(self, weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(weight, **kwargs)

    def build(
        self,
        teacher_maps_shape: Sequence[Sequence[int | None]],
        student_maps_shape: Sequence[Sequence[int | None]],
    ) -> None:
        self.connectors = build_connectors(
            teacher_maps_shape, student_maps_shape, self.dtype_policy
        )

    def call(
        self, teacher_maps: Sequence[Tensor], student_maps: Sequence[Tensor]
    ) -> Tensor:
        loss = 0.0
        for teacher, student in connected(self.connectors, teacher_maps, student_maps):
            sign = ops.where(teacher > 0, 1.0, -1.0)
            loss += ops.mean(ops.square(ops.relu(_MARGIN - sign * student)))
        return self.weight * loss
