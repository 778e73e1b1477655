"""AT: Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017."""

import keras
from keras import ops

from keras_hybrid.adapters import resize


class AttentionTransfer(keras.layers.Layer):
    """1/2 |Q_student / |Q_student| - Q_teacher / |Q_teacher||^2, summed over stages.

    Q is a stage's sum of squares over channels as a vector (Eq. 2, p = 2). The mean over
    its elements, as the paper has it in beta.

    Args:
        weight: Beta times elements and images; the paper's is 1000.
    """

    takes = "stages"

    def __init__(self, weight=1000.0, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def build(self, teacher_maps_shape, student_maps_shape):
        """Nothing to build: attention has no weights."""

    def call(self, teacher_maps, student_maps):
        loss = 0.0
        for teacher, student in zip(teacher_maps, student_maps, strict=True):
            teacher, student = _energy(teacher), _energy(student)
            student = resize(student, ops.shape(teacher)[1:3])
            difference = _as_unit_vectors(student) - _as_unit_vectors(teacher)
            loss += ops.mean(ops.square(difference)) / 2
        return self.weight * loss


def _energy(x):
    """(B, H, W, C) -> (B, H, W, 1)"""
    return ops.sum(ops.square(ops.cast(x, "float32")), axis=-1, keepdims=True)


def _as_unit_vectors(x):
    return ops.normalize(ops.reshape(x, (ops.shape(x)[0], -1)))
