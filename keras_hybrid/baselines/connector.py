"""What makes a student's map fit the teacher's, to be compared with it."""

import keras
from keras import ops

from keras_hybrid.hybrid.adapters import Adapter


class Connector(keras.layers.Layer):
    """An `Adapter` and batch normalization (Heo et al. 2019, AB and Overhaul alike).

    Args:
        channels: Of the teacher's map.
    """

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.adapter = Adapter(channels, dtype=self.dtype_policy, name="adapter")
        self.norm = keras.layers.BatchNormalization(dtype=self.dtype_policy, name="norm")

    def build(self, student_shape):
        self.adapter.build(student_shape)
        self.norm.build((*student_shape[:-1], self.adapter.channels))

    def call(self, student, size):
        """(B, h, w, c) -> (B, *size, channels) in float32."""
        return ops.cast(
            self.norm(self.adapter(student, size=size), training=True), "float32"
        )


def build_connectors(teacher_shapes, student_shapes, dtype):
    """One for each pair of maps."""
    connectors = []
    shapes = zip(teacher_shapes, student_shapes, strict=True)
    for i, (teacher_shape, student_shape) in enumerate(shapes, start=1):
        connector = Connector(teacher_shape[-1], dtype=dtype, name=f"connector_{i}")
        connector.build(student_shape)
        connectors.append(connector)
    return connectors


def connected(connectors, teacher_maps, student_maps):
    """Yields the pairs (teacher's map, student's map made to fit it), both float32."""
    for connector, teacher, student in zip(
        connectors, teacher_maps, student_maps, strict=True
    ):
        size = ops.shape(teacher)[1:3]
        yield ops.cast(teacher, "float32"), connector(student, size=size)
