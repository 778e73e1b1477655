"""Adapters from one network's feature maps to the other network's next stage."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_hybrid.hybrid import tokens
from keras_hybrid.hybrid.cuts import Cut
from keras_hybrid.training.types import Tensor

# As class tokens and position embeddings start in most transformers.
_PREFIX_STDDEV = 0.02


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
            channels,
            1,
            data_format="channels_last",
            dtype=self.dtype_policy,
            name="convolution",
        )
        self.supports_jit = supports_jit(resizes)

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


class TokenAdapter(keras.layers.Layer):
    """An adapter from or to tokens (B, P + height * width, C), see `tokens`.

    From tokens, the prefix tokens are dropped and the map is restored; to tokens, the
    adapted map is flattened, and trainable prefix tokens come in front, since the map
    has none of the other network.

    Args:
        adapter: The adapter of the maps.
        prefixes: Numbers of prefix tokens of the input and the output; None for a map.
        channels: Number of output channels.
    """

    def __init__(
        self,
        adapter: keras.layers.Layer,
        prefixes: tuple[int | None, int | None],
        channels: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.adapter = adapter
        self.prefixes = prefixes
        self.supports_jit = adapter.supports_jit
        if prefixes[1]:
            self.prefix = self.add_weight(
                shape=(prefixes[1], channels),
                initializer=keras.initializers.RandomNormal(stddev=_PREFIX_STDDEV),
                name="prefix",
            )
        self.built = True

    def call(
        self,
        x: Tensor,
        size: Sequence[int | Tensor],
        source_size: Sequence[int | Tensor],
    ) -> Tensor:
        """Adapts a map of `source_size`, or its tokens, to one of `size`."""
        before, after = self.prefixes
        if before is not None:
            x = tokens.to_map(x, before, source_size)
        x = self.adapter(x, size=size)
        if after is None:
            return x
        x = tokens.from_map(x)
        if not after:
            return x
        shape = (ops.shape(x)[0], *self.prefix.shape)
        return ops.concatenate([ops.broadcast_to(self.prefix, shape), x], axis=1)


def make(
    adapter: Callable[..., keras.layers.Layer],
    source: Cut,
    target: Cut,
    resizes: bool,
    dtype: keras.DTypePolicy,
    name: str,
) -> keras.layers.Layer:
    """Returns a built adapter from one cut to another.

    Args:
        adapter: Class or function that makes it, see `HybridTransfer`.
        source, target: The cuts.
        resizes: Whether the output can differ in size from the input at all.
        dtype: Dtype policy of the adapter.
        name: Name of the adapter.

    Raises:
        TypeError, ValueError: `adapter` does not make such a layer.
    """
    channels = source.channels, target.channels
    prefixes = source.prefix, target.prefix
    if prefixes == (None, None):
        return _of_maps(adapter, channels, resizes, dtype, name)
    # With a name of its own: on PyTorch, Keras finds weights by their paths.
    inner = _of_maps(adapter, channels, resizes, dtype, f"{name}_of_maps")
    return TokenAdapter(inner, prefixes, target.channels, dtype=dtype, name=name)


def _of_maps(adapter, channels, resizes, dtype, name):
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
    try:
        shape = tuple(layer(maps, size=size, training=True).shape)
    except Exception as error:  # whatever a layer raises
        raise TypeError(
            f"{wanted}, which is called as `layer(x, size=(height, width), "
            f"training=training)`. Received: adapter={adapter!r}, whose layer fails "
            f"with: {' '.join(str(error).split())}"
        ) from error
    if shape != (1, *size, channels[1]):
        raise ValueError(
            f"{wanted}, which returns maps (B, *size, channels). Received: "
            f"adapter={adapter!r}, whose layer for channels={channels[1]} makes {shape} "
            f"of {tuple(maps.shape)} with size={size}"
        )
    return layer


def run(
    adapter: keras.layers.Layer,
    x: Tensor,
    source: tuple[Cut, Sequence[int | Tensor]],
    target: tuple[Cut, Sequence[int | Tensor]],
    training: bool,
) -> Tensor:
    """Runs an adapter from one cut to another.

    Args:
        adapter: The adapter.
        x: The map or the tokens at `source`.
        source, target: Each the cut, and (height, width) of the images of its network.
        training: Whether the adapter trains.
    """
    source_size, size = (cut.size(image_size) for cut, image_size in (source, target))
    more = {"source_size": source_size} if isinstance(adapter, TokenAdapter) else {}
    return adapter(x, size=size, **more, training=training)


def supports_jit(resizes: bool) -> bool:
    """Whether XLA can train a layer: it has no gradient of TensorFlow's `resize`."""
    return not resizes or keras.backend.backend() != "tensorflow"


def may_differ(shape: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Whether maps of two shapes (B, H, W, C) can differ in height or width."""
    sizes = tuple(shape[1:3]), tuple(other[1:3])
    return sizes[0] != sizes[1] or None in sizes[0]


def resize(x: Tensor, size: tuple[int | Tensor, ...]) -> Tensor:
    """Resizes maps (B, H, W, C) bilinearly to (height, width), static or dynamic."""
    if _is_static(size) and tuple(x.shape[1:3]) == size:
        return x
    if _is_static(size):
        return ops.image.resize(x, size, "bilinear", data_format="channels_last")
    # Keras resizes to static sizes only, and only TensorFlow has dynamic ones.
    import tensorflow as tf

    return tf.cast(tf.image.resize(x, size), x.dtype)


def _is_static(size):
    return all(isinstance(n, int) for n in size)
