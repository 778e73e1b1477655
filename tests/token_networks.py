"""Transformers of a few channels, with tokens (B, P + height * width, C)."""

import keras
import numpy as np
from keras import layers, ops


@keras.saving.register_keras_serializable("token_networks")
class Prefix(layers.Layer):
    """Puts trainable tokens in front, such as a class token and registers."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def build(self, shape):
        self.tokens = self.add_weight(
            shape=(self.count, shape[-1]), initializer="normal", name="tokens"
        )

    def call(self, x):
        tokens = ops.broadcast_to(self.tokens, (ops.shape(x)[0], *self.tokens.shape))
        return ops.concatenate([tokens, x], axis=1)

    def get_config(self):
        return {**super().get_config(), "count": self.count}


@keras.saving.register_keras_serializable("token_networks")
class PositionEmbedding(layers.Layer):
    """Adds a trainable vector for each token."""

    def build(self, shape):
        self.positions = self.add_weight(
            shape=shape[1:], initializer="normal", name="positions"
        )

    def call(self, x):
        return x + self.positions

    def compute_output_shape(self, shape):
        return shape


def block(x, name, heads=2, attention=None):
    """Attention and a multilayer perceptron, each behind layer normalization."""
    channels = x.shape[-1]
    y = layers.LayerNormalization(name=f"{name}_norm1")(x)
    if attention is None:
        mha = layers.MultiHeadAttention(heads, channels // heads, name=f"{name}_attn")
        y = mha(y, y)
    else:
        y = attention(y)
    x = layers.Add(name=f"{name}_add1")([x, y])
    y = layers.LayerNormalization(name=f"{name}_norm2")(x)
    y = layers.Dense(2 * channels, activation="gelu", name=f"{name}_mlp1")(y)
    y = layers.Dense(channels, name=f"{name}_mlp2")(y)
    return layers.Add(name=f"{name}_out")([x, y])


def vit(size=(32, 32), patch=8, channels=8, depth=4, prefix=1, classes=4, name="vit"):
    """A plain transformer; the head takes the first prefix token, or the mean."""
    size = (size, size) if isinstance(size, int) else size
    x = image = keras.Input((*size, 3))
    x = layers.Conv2D(channels, patch, strides=patch, name="patches")(x)
    x = layers.Reshape((-1, channels), name="tokens")(x)
    if prefix:
        x = Prefix(prefix, name="prefix")(x)
    if None not in size:
        x = PositionEmbedding(name="positions")(x)
    for i in range(depth):
        x = block(x, f"block{i}")
    x = layers.LayerNormalization(name="norm")(x)
    x = x[:, 0] if prefix else layers.GlobalAveragePooling1D(name="pool")(x)
    x = layers.Dense(classes, activation="softmax", name="classifier")(x)
    return keras.Model(image, x, name=name)


@keras.saving.register_keras_serializable("token_networks")
class WindowAttention(layers.Layer):
    """Attention within windows of a grid of tokens, as in Swin."""

    def __init__(self, size, window, heads, **kwargs):
        super().__init__(**kwargs)
        self.size, self.window, self.heads = tuple(size), window, heads

    def build(self, shape):
        self.attention = layers.MultiHeadAttention(self.heads, shape[-1] // self.heads)
        self.attention.build((None, self.window**2, shape[-1]), shape)

    def call(self, x):
        (h, w), k, c = self.size, self.window, x.shape[-1]
        x = ops.reshape(x, (-1, h // k, k, w // k, k, c))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, k * k, c))
        x = self.attention(x, x)
        x = ops.reshape(x, (-1, h // k, w // k, k, k, c))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, h * w, c))

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        config = {"size": self.size, "window": self.window, "heads": self.heads}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("token_networks")
class PatchMerging(layers.Layer):
    """Joins 2x2 neighbouring tokens and halves their channels, as in Swin."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = tuple(size)

    def build(self, shape):
        self.reduction = layers.Dense(2 * shape[-1], use_bias=False)
        self.reduction.build((None, None, 4 * shape[-1]))

    def call(self, x):
        (h, w), c = self.size, x.shape[-1]
        x = ops.reshape(x, (-1, h // 2, 2, w // 2, 2, c))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return self.reduction(ops.reshape(x, (-1, h * w // 4, 4 * c)))

    def compute_output_shape(self, shape):
        return (shape[0], self.size[0] * self.size[1] // 4, 2 * shape[-1])

    def get_config(self):
        return {**super().get_config(), "size": self.size}


def swin(size=(32, 32), channels=4, stages=3, classes=4, name="swin"):
    """A hierarchical transformer with window attention; strides 2, 4, 8 and so on."""
    size = (size, size) if isinstance(size, int) else size
    x = image = keras.Input((*size, 3))
    x = layers.Conv2D(channels, 2, strides=2, name="patches")(x)
    grid = tuple(x.shape[1:3])
    x = layers.Reshape((-1, channels), name="tokens")(x)
    for i in range(stages):
        attention = WindowAttention(grid, 2, 2, name=f"stage{i}_attn")
        x = block(x, f"stage{i}", attention=attention)
        if i < stages - 1:
            x = PatchMerging(grid, name=f"merge{i}")(x)
            grid = tuple(n // 2 for n in grid)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    x = layers.Dense(classes, activation="softmax", name="classifier")(x)
    return keras.Model(image, x, name=name)


@keras.saving.register_keras_serializable("token_networks")
class Block(layers.Layer):
    """A block of a transformer as one layer, with dropout."""

    def __init__(self, heads=2, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, shape):
        channels = shape[-1]
        self.norm = layers.LayerNormalization()
        self.attention = layers.MultiHeadAttention(self.heads, channels // self.heads)
        self.dropout = layers.Dropout(0.2)
        self.mlp = layers.Dense(channels, activation="gelu")
        self.norm.build(shape)
        self.attention.build(shape, shape)
        self.mlp.build(shape)

    def call(self, x, training=None):
        y = self.norm(x)
        x = x + self.dropout(self.attention(y, y), training=training)
        return x + self.mlp(x)

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "heads": self.heads}


@keras.saving.register_keras_serializable("token_networks")
class Encoder(layers.Layer):
    """A transformer's blocks inside of one layer, as in keras-hub.

    Args:
        depth: Number of blocks.
        own: What the layer does besides calling its blocks: nothing, or `"weight"`,
            `"training"` for a call that differs in training, `"batch"` for a reshape to
            the size of the batch, which is unknown in a graph.
    """

    def __init__(self, depth=4, own=None, **kwargs):
        super().__init__(**kwargs)
        self.depth, self.own = depth, own
        self.blocks = [Block(name=f"block{i}") for i in range(depth)]
        self.norm = layers.LayerNormalization(name="norm")

    def build(self, shape):
        for layer in (*self.blocks, self.norm):
            layer.build(shape)
        if self.own == "weight":
            self.scale = self.add_weight(shape=shape[-1:], initializer="ones")

    def call(self, x, training=None):
        maps = {}
        for i, layer in enumerate(self.blocks):
            x = maps[f"block{i}"] = layer(x, training=training)
        if self.own == "weight":
            x = x * self.scale
        if self.own == "training" and training:
            x = 2 * x
        if self.own == "batch":
            x = ops.reshape(x, (ops.shape(x)[0], x.shape[1], x.shape[2]))
        return self.norm(x), maps

    def get_config(self):
        return {**super().get_config(), "depth": self.depth, "own": self.own}


def hidden_vit(size=(32, 32), patch=8, channels=8, depth=4, own=None, classes=4):
    """A plain transformer whose blocks are inside of the layer `encoder`."""
    x = image = keras.Input((*size, 3))
    x = layers.Conv2D(channels, patch, strides=patch, name="patches")(x)
    x = layers.Reshape((-1, channels), name="tokens")(x)
    x, _ = Encoder(depth, own, name="encoder")(Prefix(1, name="prefix")(x))
    x = layers.Dense(classes, activation="softmax", name="classifier")(x[:, 0])
    return keras.Model(image, x, name="hidden_vit")


def images(count, size, seed=0):
    """Images (count, *size, 3) float32 in -1..1 and labels (count,) of four classes."""
    rng = np.random.default_rng(seed)
    size = (size, size) if isinstance(size, int) else size
    values = rng.uniform(-1, 1, (count, *size, 3)).astype("float32")
    return values, rng.integers(0, 4, count)
