"""FitNet: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015."""

import keras
from keras import ops

from keras_hybrid.hybrid.adapters import Adapter


class FitNet(keras.layers.Layer):
    """1/2 |regressor(student) - teacher|^2 of the middle stage (Eq. 3).

    The mean over a map's elements, not their sum, so that a weight serves images of any
    size. The paper trains with it first and with the task's loss afterwards, here both
    go together; the regressor is a 1x1 convolution.

    Args:
        weight: Factor of the loss.
    """

    takes = "stages"

    def __init__(self, weight=1.0, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def build(self, teacher_maps_shape, student_maps_shape):
        self._middle = (len(teacher_maps_shape) - 1) // 2
        channels = teacher_maps_shape[self._middle][-1]
        self.regressor = Adapter(channels, dtype=self.dtype_policy, name="regressor")
        self.regressor.build(student_maps_shape[self._middle])

    def call(self, teacher_maps, student_maps):
        teacher, student = teacher_maps[self._middle], student_maps[self._middle]
        student = self.regressor(student, size=ops.shape(teacher)[1:3])
        difference = ops.cast(student, "float32") - ops.cast(teacher, "float32")
        return self.weight * ops.mean(ops.square(difference)) / 2
