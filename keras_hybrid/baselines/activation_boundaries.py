"""AB: Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries Formed by
Hidden Neurons", AAAI 2019."""

import keras
from keras import ops

from keras_hybrid.baselines.connector import build_connectors, connected

_MARGIN = 1.0


class ActivationBoundaries(keras.layers.Layer):
    """A squared hinge loss of whether each of the teacher's neurons fires (Eq. 5).

    With r the student's map through a connector, before the activation as the teacher's:
    relu(1 - r)^2 where the teacher's neuron fires, relu(1 + r)^2 elsewhere. The mean over
    a map's elements, summed over stages; the authors' sum weighs each stage half of the
    next, which with half as many elements is the same. The paper trains with it first
    and with the task's loss afterwards, here both go together.

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
            sign = ops.where(teacher > 0, 1.0, -1.0)
            loss += ops.mean(ops.square(ops.relu(_MARGIN - sign * student)))
        return self.weight * loss
