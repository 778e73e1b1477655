"""Overhaul: Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_hybrid.baselines.connector import build_connectors, connected
from keras_hybrid.baselines.transfer_loss import TransferLoss
from keras_hybrid.training.types import Tensor


@keras.saving.register_keras_serializable("keras_hybrid")
class Overhaul(TransferLoss):
    """The partial L2 distance to the teacher's margin ReLU, before the activation.

    Let T = max(teacher, m), where m is the mean of a channel's negative values (Eq. 2,
    3), and S the student's feature map after a connector. The loss is 0 where
    S <= T <= 0 and (T - S)^2 elsewhere (Eq. 4), averaged over a map's elements and summed
    over stages. The authors sum over elements and give each stage half the weight of the
    next, which has half as many elements, so that the result is the same. The m are
    computed from the batch. The teacher's batch normalization keeps the statistics of its
    training, where the authors use those of the batch.

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
            target = margin_relu(teacher)
            counts = ops.logical_or(student > target, target > 0)
            distance = ops.square(target - student)
            loss += ops.mean(ops.where(counts, distance, 0.0))
        return self.weight * loss


def margin_relu(x: Tensor) -> Tensor:
    """max(x, m), with m the mean of each channel's negative values, or 0 without any."""
    negative = ops.minimum(x, 0.0)
    count = ops.sum(ops.cast(x < 0, "float32"), axis=(0, 1, 2))
    margin = ops.sum(negative, axis=(0, 1, 2)) / ops.maximum(count, 1.0)
    return ops.maximum(x, margin)
