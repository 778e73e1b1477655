"""Transforms, and the operations that they share.

A transform chooses its crop before the image is decoded, so that only this part of a JPEG
has to be decoded.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_hybrid.training.types import Tensor


@dataclasses.dataclass(frozen=True)
class Transform:
    """A crop and what follows it; `transform(image, label, seed)` applies both.

    Sources trace both functions without AutoGraph, so these must branch with `tf.cond`
    instead of `if`.

    Attributes:
        box: `box(size, label, seed)` returns the part of the image to decode as top,
            left, height and width in pixels, int32 (4,), given the image's (height,
            width) `size`, int32 (2,). The part starts inside the image but may extend
            beyond it.
        finish: `finish(part, box, label, seed)` returns the result (image, label), given
            the pixels of that part which lie inside the image.
    """

    box: Callable[[tf.Tensor, Any, Tensor], tf.Tensor]
    finish: Callable[[Any, tf.Tensor, Any, Tensor], tuple[Any, Any]]

    def __call__(self, image: Tensor, label: Any, seed: Tensor) -> tuple[Any, Any]:
        """Transforms a decoded image (H, W, ...), or a tuple of several of one size."""
        image = tf.nest.map_structure(tf.convert_to_tensor, image)
        size = tf.shape(tf.nest.flatten(image)[0])[:2]
        box = self.box(size, label, seed)
        return self.finish(cut(image, box), box, label, seed)


def whole(size: tf.Tensor, label: Any, seed: Any) -> tf.Tensor:
    """The `box` of a `Transform` that needs the whole image."""
    del label, seed
    return tf.concat([[0, 0], size], axis=0)


def cut(image: Any, box: tf.Tensor) -> Any:
    """Cuts a box out of an image (H, W, ...), or out of each of several."""
    top, left, height, width = tf.unstack(box)
    return tf.nest.map_structure(
        lambda pixels: pixels[top : top + height, left : left + width], image
    )


def mirrored_if(mirrored: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """Flips pixels (H, W, ...) left to right if `mirrored`, a scalar bool, is true."""
    # Slicing with [:, ::-1] takes ten times as long.
    return tf.cond(mirrored, lambda: tf.reverse(pixels, [1]), lambda: pixels)


def resized(image: tf.Tensor, size: tf.Tensor | Sequence[int]) -> tf.Tensor:
    """Resizes an image bilinearly with antialiasing, as Pillow does.

    The result is bit-identical to `tf.image.resize(image, size, antialias=True)` in about
    half the time: TensorFlow's kernel is fast only along the last axis, so the rows and
    then the columns are resized with the rest of the image as channels.

    Args:
        image: Image, uint8 or float32 (H, W, C).
        size: New height and width in pixels, integers (2,).

    Returns:
        float32 (height, width, C).
    """
    rows = _with_height(image, size[0])
    columns = _with_height(tf.transpose(rows, (1, 0, 2)), size[1])
    return tf.transpose(columns, (1, 0, 2))


def _with_height(image, height):
    old, width, channels = tf.unstack(tf.shape(image))
    scale = tf.cast(height, "float32") / tf.cast(old, "float32")
    rows = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(image, (1, old, 1, width * channels)),
        size=(height, 1),
        scale=(scale, 1.0),
        translation=(0.0, 0.0),
        kernel_type="triangle",
        antialias=True,
    )
    return tf.reshape(rows, (height, width, channels))
