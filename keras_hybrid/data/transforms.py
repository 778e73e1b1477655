"""What a transform is, and the parts that transforms share.

A crop is chosen before the image is decoded, so that of a JPEG nothing else needs to be.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Transform:
    """A crop, and what becomes of it: `transform(image, label, seed)` returns both.

    Sources trace both functions without AutoGraph: they branch by `tf.cond`, not by `if`.

    Attributes:
        box: `box(size, label, seed)` returns top, left, height and width in pixels, int32
            (4,), of the part that is needed of an image of height and width `size`, int32
            (2,). A part may end beyond the image, but begins in it.
        finish: `finish(part, box, label, seed)` returns the result, given what the image
            has of that part.
    """

    box: Callable
    finish: Callable

    def __call__(self, image, label, seed):
        """Of an image (H, W, ...) that is decoded, or of several of one size."""
        image = tf.nest.map_structure(tf.convert_to_tensor, image)
        size = tf.shape(tf.nest.flatten(image)[0])[:2]
        box = self.box(size, label, seed)
        return self.finish(cut(image, box), box, label, seed)


def whole(size, label, seed):
    """The `box` of all of the image."""
    del label, seed
    return tf.concat([[0, 0], size], axis=0)


def cut(image, box):
    """What an image (H, W, ...), or each of several, has of a box."""
    top, left, height, width = tf.unstack(box)
    return tf.nest.map_structure(
        lambda pixels: pixels[top : top + height, left : left + width], image
    )


def mirrored_if(mirrored, pixels):
    """Pixels (H, W, ...), left and right exchanged if a bool tensor says so."""
    # Slicing with [:, ::-1] takes ten times as long.
    return tf.cond(mirrored, lambda: tf.reverse(pixels, [1]), lambda: pixels)


def resized(image, size):
    """Bilinear with antialiasing, as Pillow resizes: float32 (height, width, C).

    To the last bit `tf.image.resize(image, size, antialias=True)`, in about half of its
    time: TensorFlow's kernel is quick along the last axis alone, so that rows and then
    columns are resized as if the rest of the image were channels.

    Args:
        image: uint8 or float32 (H, W, C).
        size: New height and width, integers (2,).
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
