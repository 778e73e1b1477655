"""Adapters from one network's feature maps to the other network's next stage."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_hybrid.training.types import Tensor


@keras.saving.register_keras_serializable("keras_hybrid")
class Adapter(keras.layers.Layer):
    """1x1 convolution, then bilinear resizing where the size differs.

    Paper, "Hybrid Forward": a 1x1 convolution matches each feature map to the width of
    the next stage, and interpolation resizes it where padding has made the sizes differ.

    Args:
        channels: Number of output channels.
        resizes: Whether the output can differ in size from the input at all.
    """

    def __init__(self, channels: int, resizes: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        self.resizes = resizes
        self.convolution = keras.layers.Conv2D(
            channels, 1, dtype=self.dtype_policy, name="convolution"
        )
        # XLA has no gradient of TensorFlow's bilinear resize.
        self.supports_jit = not resizes or keras.backend.backend() != "tensorflow"

    def build(self, input_shape: Sequence[int | None]) -> None:
        self.convolution.build(input_shape)

    def call(self, x: Tensor, size: Sequence[int | Tensor]) -> Tensor:
        """Adapts `x` (B, H, W, C) to (B, *size, channels)."""
        x = self.convolution(x)
        return resize(x, tuple(size)) if self.resizes else x

    def compute_output_shape(
        self,
        input_shape: Sequence[int | None],
        size: Sequence[int | None] = (None, None),
    ) -> tuple[int | None, ...]:
        size = size if self.resizes else input_shape[1:3]
        return (input_shape[0], *size, self.channels)

    def get_config(self) -> dict[str, Any]:
        config = {"channels": self.channels, "resizes": self.resizes}
        return {**super().get_config(), **config}


def resize(x: Tensor, size: tuple[int | Tensor, ...]) -> Tensor:
    """Resizes maps (B, H, W, C) bilinearly to (height, width), static or dynamic."""
    if _is_static(size) and tuple(x.shape[1:3]) == size:
        return x
    if _is_static(size):
        return ops.image.resize(x, size, interpolation="bilinear")
    # Keras resizes to static sizes only, and only TensorFlow has dynamic ones.
    import tensorflow as tf

    return tf.cast(tf.image.resize(x, size), x.dtype)


def _is_static(size):
    return all(isinstance(n, int) for n in size)
