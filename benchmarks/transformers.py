"""A plain and a hierarchical transformer of Keras's own layers."""

import keras_hybrid  # noqa: F401  before TensorFlow: oneDNN is on

# isort: split
import keras
from keras import layers

_CLASSES = 10


def vit(
    channels: int = 64,
    depth: int = 8,
    patch: int = 4,
    heads: int = 4,
    size: int = 32,
    classes: int | None = _CLASSES,
) -> keras.Model:
    """Returns a plain transformer for images (size, size, 3).

    As in Dosovitskiy et al. (2021), with the mean of the tokens for a class token, and a
    depthwise convolution for a position embedding (Chu et al., 2023).

    Args:
        channels: Number of channels of the tokens.
        depth: Number of blocks.
        patch: Height and width of the patches in pixels.
        heads: Number of heads of the attention.
        size: Height and width of the images in pixels.
        classes: Number of classes; None for the tokens behind the last block.
    """
    image, x = _image(size)
    x = _tokens(_patches(x, channels, patch))
    for _ in range(depth):
        x = _block(x, x, heads)
    return _classifier(image, x, "vit", classes)


def pvt(
    channels: tuple[int, ...] = (32, 64, 128), depths: tuple[int, ...] = (2, 2, 2)
) -> keras.Model:
    """Returns a hierarchical transformer for images (32, 32, 3), strides 2, 4 and 8.

    As in Wang et al. (2021): keys and values come from a map of the coarsest stride.
    """
    image, x = _image(32)
    for i, (width, depth) in enumerate(zip(channels, depths, strict=True)):
        size = 32 >> i + 1
        reduction = 2 ** (len(channels) - 1 - i)
        x = _tokens(_patches(x, width, 2))
        for _ in range(depth):
            y = layers.Reshape((size, size, width))(x)
            if reduction > 1:
                y = layers.Conv2D(width, reduction, strides=reduction)(y)
            x = _block(x, _tokens(y), heads=2**i)
        x = layers.LayerNormalization()(x)
        x = layers.Reshape((size, size, width))(x)
    return _classifier(image, x, "pvt", _CLASSES)


def _image(size):
    image = keras.Input((size, size, 3))
    return image, layers.Rescaling(1 / 127.5, offset=-1)(image)


def _patches(x, channels, patch):
    x = layers.Conv2D(channels, patch, strides=patch)(x)
    return layers.Add()([x, layers.DepthwiseConv2D(3, padding="same")(x)])


def _tokens(x):
    return layers.Reshape((x.shape[1] * x.shape[2], x.shape[3]))(x)


def _block(x, context, heads):
    channels = x.shape[-1]
    norm = layers.LayerNormalization()
    y = norm(x)
    context = y if context is x else layers.LayerNormalization()(context)
    y = layers.MultiHeadAttention(heads, channels // heads)(y, context)
    x = layers.Add()([x, y])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(4 * channels, activation="gelu")(y)
    return layers.Add()([x, layers.Dense(channels)(y)])


def _classifier(image, x, name, classes):
    if classes is None:
        return keras.Model(image, x, name=name)
    x = layers.LayerNormalization()(x)
    rank = len(x.shape)
    pool = layers.GlobalAveragePooling1D if rank == 3 else layers.GlobalAveragePooling2D
    x = layers.Dense(classes, activation="softmax", name="classifier")(pool()(x))
    return keras.Model(image, x, name=name)
