"""Decode images and their label maps to upright pixels and classes."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL.TiffImagePlugin import BITSPERSAMPLE

from keras_hybrid.data import decoding
from keras_hybrid.data.transforms import cut

UNKNOWN = -1
"""Entry of a `class_of` for a label value that must not occur."""

_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # start of a file; then width and height,
_GREY_8_BITS = b"\x08\0"  # then bit depth 8, colour type grey
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"  # required by TensorFlow, not by Pillow


def decode_part_of_pair(
    pair: tf.Tensor, class_of: np.ndarray, box_of: Callable[[tf.Tensor], tf.Tensor]
) -> tuple[tuple[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Decodes the part of an image and its classes inside a box, as in `decode_pair`.

    Args:
        pair: Encoded image and label map, strings (2,).
        class_of: Class of each label value, see `source_of_files`.
        box_of: As in `decoding.decode_part`.

    Returns:
        ((uint8 (h, w, 3), uint8 (h, w)), the box).

    Raises:
        tf.errors.OpError: If they cannot be decoded or do not belong together.
    """
    is_cropped, parts, box = crop_pair(pair, class_of, box_of)
    return tf.cond(
        is_cropped,
        lambda: (parts, box),
        lambda: decoding.part_of(decode_whole_pair(pair, class_of), box_of),
    )


def crop_pair(
    pair: tf.Tensor, class_of: np.ndarray, box_of: Callable[[tf.Tensor], tf.Tensor]
) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor], tf.Tensor]:
    """`decode_part_of_pair` for the common kinds of JPEG and PNG files.

    Of a JPEG only the part inside the box is decoded.

    Returns:
        (is_cropped, (pixels, classes), box). `is_cropped` is False, and the rest is
        meaningless, for other files and for label maps with unknown labels.

    Raises:
        tf.errors.OpError: If one of the two cannot be decoded.
    """
    image, label_map = tf.unstack(pair)
    size = _size_of_png(label_map)
    is_jpeg = tf.io.is_jpeg(image)

    def usual():
        box = box_of(size)
        part = tf.cond(
            is_jpeg,
            # Bit-identical to Pillow, which decodes all other files.
            lambda: decoding.crop_jpeg(image, size, box, "INTEGER_ACCURATE"),
            lambda: cut(tf.io.decode_png(image, 3), box),
        )
        all_known, classes = _crop_classes(label_map, class_of, box)
        return all_known, (part, classes), box

    def nothing():
        parts = tf.zeros((0, 0, 3), "uint8"), tf.zeros((0, 0), "uint8")
        return False, parts, tf.zeros((4,), "int32")

    image_size = tf.cond(
        is_jpeg, lambda: _size_of_jpeg(image), lambda: _size_of_png(image)
    )
    fits = tf.reduce_all(size == image_size)
    return tf.cond(fits & (size[0] > 0), usual, nothing)


def _size_of_jpeg(encoded):
    """Height and width, int32 (2,); zeros for CMYK or if it must be decoded whole."""
    shape = tf.io.extract_jpeg_shape(encoded)
    is_usual = decoding.can_be_cropped(encoded) & (shape[2] != 4)
    return tf.where(is_usual, shape[:2], 0)


def _size_of_png(encoded):
    """Height and width from the header, int32 (2,); zeros if marked or truncated."""
    begins = tf.strings.substr(encoded, 0, len(_PNG) + 8)
    length = tf.minimum(tf.strings.length(encoded), len(_PNG_END))
    is_usual = (
        (tf.strings.length(begins) == len(_PNG) + 8)
        & (tf.strings.substr(begins, 0, len(_PNG)) == _PNG)
        & (tf.strings.substr(encoded, -length, length) == _PNG_END)
        & tf.logical_not(tf.strings.regex_full_match(encoded, decoding.MARKED))
    )
    size = tf.strings.substr(tf.where(is_usual, begins, _PNG + bytes(8)), len(_PNG), 8)
    width_height = tf.io.decode_raw(size, "int32", little_endian=False)
    return tf.ensure_shape(width_height[::-1], (2,))


def _crop_classes(label_map, class_of, box):
    """(whether all labels are known, uint8 (h, w)) of the part of a PNG inside a box."""
    unknown = np.flatnonzero(class_of == UNKNOWN)
    lowest = unknown.min(initial=255)

    def of_grey():
        labels = tf.io.decode_png(label_map, 1)
        # 255, which is always known, wraps around to 0.
        all_known = tf.reduce_max(labels + 1) <= lowest
        part = tf.cast(cut(tf.squeeze(labels, 2), box), "int32")
        return all_known, tf.gather(class_of.astype("uint8"), part)

    def of_palette():
        return True, cut(_classes_by_pillow(label_map, class_of), box)

    is_grey = tf.strings.substr(label_map, len(_PNG) + 8, 2) == _GREY_8_BITS
    return tf.cond(is_grey, of_grey, of_palette)


def _classes_by_pillow(label_map, class_of):
    classes = decoding.of_bytes(
        lambda encoded: classes_of(decode_labels(encoded), class_of), "uint8", label_map
    )
    return tf.ensure_shape(classes, (None, None))


def decode_whole_pair(
    pair: tf.Tensor, class_of: np.ndarray
) -> tuple[tf.Tensor, tf.Tensor]:
    """`decode_pair` in a graph: from strings (2,) to uint8 (H, W, 3) and uint8 (H, W)."""
    both = decoding.of_bytes(
        lambda image, labels: decode_pair(image, labels, class_of),
        "uint8",
        *tf.unstack(pair),
    )
    both = tf.ensure_shape(both, (None, None, 4))
    return both[..., :3], both[..., 3]


def decode_pair(image: bytes, labels: bytes, class_of: np.ndarray) -> np.ndarray:
    """Decodes an image and its label map to upright pixels and classes, uint8 (H, W, 4).

    A label map normally fits the upright image. One that fits only the pixels as stored
    is turned together with them.

    Raises:
        ValueError: If they cannot be read or do not belong together.
    """
    photograph = decoding.opened(image, "image")
    orientation = decoding.orientation_of(photograph)
    stored = decoding.rgb(photograph)
    upright = decoding.turned(stored, orientation)
    label_map = decode_labels(labels)
    if label_map.shape == stored.shape[:2] != upright.shape[:2]:
        label_map = decoding.turned(label_map, orientation)
    if label_map.shape != upright.shape[:2]:
        raise ValueError(
            "An image and its label map must have the same size. Received: "
            f"{upright.shape[1]}x{upright.shape[0]} and "
            f"{label_map.shape[1]}x{label_map.shape[0]}"
        )
    classes = classes_of(label_map, class_of)
    return np.concatenate([upright, classes[..., None]], axis=-1)


def decode_labels(encoded: bytes) -> np.ndarray:
    """Decodes a label map to upright integers (H, W), with the values in the file.

    In a palette image these are the indices; in one of 1, 2 or 4 bits they are 0 to 1, 3
    or 15, which Pillow would stretch to 0..255.

    Raises:
        ValueError: If the label map cannot be read or has colours.
    """
    image = decoding.opened(encoded, "label map")
    labels = np.asarray(image)
    if labels.ndim != 2:
        raise ValueError(
            f"A label map must have one channel. Received: {labels.shape[2]} channels"
        )
    if labels.dtype == bool:
        labels = labels.astype("uint8")
    elif image.mode == "L" and image.format in ("PNG", "TIFF"):
        if image.format == "PNG":
            bits = encoded[24]  # the header's first entry after width and height
        else:
            (bits,) = image.tag_v2[BITSPERSAMPLE]
        labels = labels // (255 // (2**bits - 1))
    if labels.dtype.kind not in "iu":
        raise ValueError(f"A label map must hold integers. Received: {labels.dtype}")
    return decoding.turned(labels, decoding.orientation_of(image))


def classes_of(labels: np.ndarray, class_of: np.ndarray) -> np.ndarray:
    """Maps labels from `decode_labels` to classes, uint8 (H, W).

    Raises:
        ValueError: If a label is unknown.
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
