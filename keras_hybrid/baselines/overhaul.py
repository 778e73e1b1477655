"""Overhaul: Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019."""

import keras
from keras import ops

from keras_hybrid.baselines.connector import build_connectors, connected


class Overhaul(keras.layers.Layer):
    """The partial L2 distance to the teacher's margin ReLU, before the activation.

    With T = max(teacher, m), where m is a channel's mean of its negative values (Eq. 2,
    3), and S the student's map through a connector: nothing where S <= T <= 0, and
    (T - S)^2 elsewhere (Eq. 4). The mean over a map's elements, summed over stages; the
    authors' sum weighs each stage half of the next, which with half as many elements is
    the same. The m are those of the batch; the teacher's own batch normalization, which
    the authors let follow the batch, stays as it was trained.

    Args:
        weight: Factor of the loss.
    """

    takes = "before_activation"

    def __init__(self, weight=1.0, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def build(self, teacher_maps_shape, student_maps_shape):
        self.connectors = build_connectors(
            teacher_maps_shape, student_maps_shape, self.dtype_policy
        )

    def call(self, teacher_maps, student_maps):
        loss = 0.0
        for teacher, student in connected(self.connectors, teacher_maps, student_maps):
            target = margin_relu(teacher)
            counts = ops.logical_or(student > target, target > 0)
            distance = ops.square(target - student)
            loss += ops.mean(ops.where(counts, distance, 0.0))
        return self.weight * loss


def margin_relu(x):
    """max(x, m), m the mean of each channel's negative values; 0 where it has none."""
    negative = ops.minimum(x, 0.0)
    count = ops.sum(ops.cast(x < 0, "float32"), axis=(0, 1, 2))
    margin = ops.sum(negative, axis=(0, 1, 2)) / ops.maximum(count, 1.0)
    return ops.maximum(x, margin)
