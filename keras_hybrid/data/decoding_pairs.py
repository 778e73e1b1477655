"""Encoded images with encoded label maps to upright pixels and classes."""

import numpy as np
import tensorflow as tf

from keras_hybrid.data import decoding
from keras_hybrid.data.transforms import cut

UNKNOWN = -1
"""In a `class_of`: a value that must not occur."""

_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # how it starts; width and height follow,
_GREY_8_BITS = b"\x08\0"  # and then this


def decode_part_of_pair(pair, class_of, box_of):
    """What a box has of the image and the classes that `decode_pair` returns.

    TensorFlow decodes the usual ones, of most photographs no more than the box. Pillow
    decodes all others.

    Args:
        pair: Encoded image and label map, strings (2,).
        class_of: As of `decode_pair`, which raises, too.
        box_of: As of `decode_part`.

    Returns:
        ((uint8 (h, w, 3), uint8 (h, w)), the box).
    """
    image, label_map = tf.unstack(pair)

    def usual():
        box = box_of(_size_of_png(label_map))
        part = tf.cond(
            tf.io.is_jpeg(image),
            # The numbers are Pillow's, which decodes the others.
            lambda: decoding.decode_crop(image, box, "INTEGER_ACCURATE"),
            lambda: cut(tf.io.decode_png(image, 3), box),
        )
        return (part, _part_of_classes(label_map, class_of, box)), box

    def any_other():
        whole = tf.numpy_function(
            lambda pair: decode_pair(*pair, class_of), [pair], "uint8", stateful=False
        )
        whole = tf.ensure_shape(whole, (None, None, 4))
        box = box_of(tf.shape(whole)[:2])
        part = cut(whole, box)
        return (part[..., :3], part[..., 3]), box

    return tf.cond(_is_usual(image, label_map), usual, any_other)


def _is_usual(image, label_map):
    """Whether the label map is a PNG of the image's size, and neither is turned."""

    def like_a_jpeg():
        shape = tf.io.extract_jpeg_shape(image)
        is_cmyk = shape[2] == 4
        return tf.reduce_all(shape[:2] == _size_of_png(label_map)) & tf.logical_not(
            is_cmyk
        )

    def like_a_png():
        return tf.reduce_all(_size_of_png(image) == _size_of_png(label_map))

    return tf.cond(
        _is_unmarked_png(label_map),
        lambda: tf.cond(
            decoding.can_be_cropped(image),
            like_a_jpeg,
            lambda: tf.cond(_is_unmarked_png(image), like_a_png, lambda: False),
        ),
        lambda: False,
    )


def _is_unmarked_png(encoded):
    """Whether it is a PNG in which nothing says how to turn it."""
    is_png = tf.strings.substr(encoded, 0, len(_PNG)) == _PNG
    marked = tf.strings.regex_full_match(encoded, decoding.MARKED)
    return is_png & tf.logical_not(marked)


def _size_of_png(encoded):
    """Height and width by its header, int32 (2,)."""
    size = tf.strings.substr(encoded, len(_PNG), 8)
    width_height = tf.io.decode_raw(size, "int32", little_endian=False)
    return tf.ensure_shape(width_height[::-1], (2,))


def _part_of_classes(label_map, class_of, box):
    """uint8 (h, w) of a PNG."""
    unknown = np.flatnonzero(class_of == UNKNOWN)
    lowest = unknown.min(initial=255)

    def by_pillow():
        classes = tf.numpy_function(
            lambda one: classes_of(decode_labels(one[0]), class_of),
            [label_map[None]],  # of a scalar NumPy has an array where TensorFlow is eager
            "uint8",
            stateful=False,
        )
        return cut(tf.ensure_shape(classes, (None, None)), box)

    def by_tensorflow():
        labels = tf.squeeze(tf.io.decode_png(label_map, 1), 2)
        # The value 255 is always known, and becomes 0.
        all_known = tf.reduce_max(labels + 1) <= lowest
        part = tf.cast(cut(labels, box), "int32")
        return tf.cond(
            all_known, lambda: tf.gather(class_of.astype("uint8"), part), by_pillow
        )

    is_grey = tf.strings.substr(label_map, 24, 2) == _GREY_8_BITS
    return tf.cond(is_grey, by_tensorflow, by_pillow)


def decode_pair(image, labels, class_of):
    """An encoded image and an encoded label map as uint8 (H, W, 4), upright.

    A label map fits the upright image. One that fits only the pixels as they are stored
    is turned with them.

    Raises:
        ValueError: They cannot be read, or do not belong together.
    """
    image = decoding.opened(image, "image")
    orientation = decoding.orientation_of(image)
    stored = decoding.rgb(image)
    upright = decoding.turned(stored, orientation)
    labels = decode_labels(labels)
    if labels.shape == stored.shape[:2] != upright.shape[:2]:
        labels = decoding.turned(labels, orientation)
    if labels.shape != upright.shape[:2]:
        raise ValueError(
            "An image and its label map must be of one size. Received: "
            f"{upright.shape[1]}x{upright.shape[0]} and "
            f"{labels.shape[1]}x{labels.shape[0]}"
        )
    classes = classes_of(labels, class_of)
    return np.concatenate([upright, classes[..., None]], axis=-1)


def decode_labels(encoded):
    """Integers (H, W) of an encoded label map, as they are stored.

    Those of a palette are its indices; those of 1, 2 or 4 bits are 0 to 1, 3 or 15, which
    Pillow would show in all of 0..255.

    Raises:
        ValueError: It cannot be read, or has colours.
    """
    image = decoding.opened(encoded, "label map")
    labels = np.asarray(image)
    if labels.ndim != 2:
        raise ValueError(
            f"A label map must have one channel. Received: {labels.shape[2]} channels"
        )
    if labels.dtype == bool:
        labels = labels.astype("uint8")
    elif image.format == "PNG" and image.mode == "L":
        bits = encoded[24]  # the header's first entry behind width and height
        labels = labels // (255 // (2**bits - 1))
    if labels.dtype.kind not in "iu":
        raise ValueError(f"A label map must be of integers. Received: {labels.dtype}")
    return decoding.turned(labels, decoding.orientation_of(image))


def classes_of(labels, class_of):
    """uint8 (H, W) of what `decode_labels` returns.

    Raises:
        ValueError: One of the labels is unknown.
    """
    if labels.min() >= 0 and labels.max() < 256:
        classes = class_of[labels]
        if classes.min() != UNKNOWN:
            return classes.astype("uint8")
    values = np.unique(labels)
    unknown = [int(v) for v in values if not 0 <= v < 256 or class_of[v] == UNKNOWN]
    raise ValueError(
        f"A label map must hold labels of the data set. Received: {unknown[:5]}"
    )
