"""Adapters from one network's feature maps to the other network's next stage."""

from collections.abc import Callable, Sequence
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

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # A layer's own would give `compute_output_shape` no size.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        config = {"channels": self.channels, "resizes": self.resizes}
        return {**super().get_config(), **config}


def make(
    adapter: Callable[..., keras.layers.Layer],
    channels: tuple[int, int],
    resizes: bool,
    dtype: keras.DTypePolicy,
    name: str,
) -> keras.layers.Layer:
    """Returns a built adapter.

    Args:
        adapter: Class or function that makes it, see `HybridTransfer`.
        channels: Numbers of input and output channels.
        resizes: Whether the output can differ in size from the input at all.
        dtype: Dtype policy of the adapter.
        name: Name of the adapter.

    Raises:
        TypeError, ValueError: `adapter` does not make such a layer.
    """
    wanted = "`adapter` must be a class or a function that makes a layer"
    if isinstance(adapter, keras.Layer) or not callable(adapter):
        raise TypeError(f"{wanted}. Received: adapter={adapter!r}")
    layer = adapter(channels[1], resizes, dtype=dtype, name=name)
    if type(layer) is Adapter:
        layer.build((None, None, None, channels[0]))
        return layer
    if not isinstance(layer, keras.Layer):
        raise TypeError(f"{wanted}. Received: adapter={adapter!r}, which made {layer!r}")
    size = (3, 3) if resizes else (2, 2)
    maps = keras.KerasTensor((1, 2, 2, channels[0]), dtype.compute_dtype)
    shape = tuple(layer(maps, size=size).shape)
    if shape != (1, *size, channels[1]):
        raise ValueError(
            f"{wanted} to maps (B, *size, channels). Received: adapter={adapter!r}, "
            f"whose layer for channels={channels[1]} makes {shape} of "
            f"{tuple(maps.shape)} with size={size}"
        )
    return layer


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
