"""AT: Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017."""

import keras
from keras import ops

from keras_hybrid.hybrid.adapters import resize


class AttentionTransfer(keras.layers.Layer):
    """weight / 2 * mean((Q_student / |Q_student| - Q_teacher / |Q_teacher|)^2).

    Summed over stages; Q is a stage's sum of squares over channels as a vector, and the
    mean is over its elements and the images. The paper's Eq. 2 has beta / 2 times the
    norm (p = 2) of the difference, not its square, with beta = 1000 / (elements x
    images). The authors' code squares, as here, but does not halve: beta times the mean
    of squares, `--beta 1e+3`. So the weight is 1000 after the paper and 2000 after the
    code.

    Args:
        weight: Beta of the formula above.
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
