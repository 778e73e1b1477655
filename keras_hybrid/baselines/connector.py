"""Connectors, which make a student's feature maps comparable with the teacher's."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from keras_hybrid.hybrid.adapters import Adapter, may_differ
from keras_hybrid.training.types import Tensor


class Connector(keras.layers.Layer):
    """An `Adapter` and batch normalization (Heo et al. 2019, both AB and Overhaul).

    Args:
        channels: Number of channels of the teacher's feature map.
        resizes: As for `Adapter`.
    """

    def __init__(self, channels: int, resizes: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.adapter = Adapter(channels, resizes, dtype=self.dtype_policy, name="adapter")
        self.norm = keras.layers.BatchNormalization(dtype=self.dtype_policy, name="norm")

    def build(self, student_shape: Sequence[int | None]) -> None:
        self.adapter.build(student_shape)
        self.norm.build((*student_shape[:-1], self.adapter.channels))

    def call(self, student: Tensor, size: Sequence[int | Tensor]) -> Tensor:
        """Adapts `student` (B, h, w, c) to float32 (B, *size, channels)."""
        return ops.cast(
            self.norm(self.adapter(student, size=size), training=True), "float32"
        )


def build_connectors(
    teacher_shapes: Sequence[Sequence[int | None]],
    student_shapes: Sequence[Sequence[int | None]],
    dtype: keras.DTypePolicy,
) -> list[Connector]:
    """Builds a connector for each pair of feature maps."""
    connectors = []
    shapes = zip(teacher_shapes, student_shapes, strict=True)
    for i, (teacher_shape, student_shape) in enumerate(shapes, start=1):
        resizes = may_differ(teacher_shape, student_shape)
        connector = Connector(
            teacher_shape[-1], resizes, dtype=dtype, name=f"connector_{i}"
        )
        connector.build(student_shape)
        connectors.append(connector)
    return connectors


def connected(
    connectors: Sequence[Connector],
    teacher_maps: Sequence[Tensor],
    student_maps: Sequence[Tensor],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields pairs (teacher's map, student's map after its connector), both float32."""
    for connector, teacher, student in zip(
        connectors, teacher_maps, student_maps, strict=True
    ):
        size = ops.shape(teacher)[1:3]
        yield ops.cast(teacher, "float32"), connector(student, size=size)
