"""Images with a class for each pixel."""

import dataclasses
import io
import os

import numpy as np
import tensorflow as tf
from absl import logging
from PIL import Image, UnidentifiedImageError

from keras_hybrid.data.sources import ArraySource, EncodedSource

IGNORED = 255
"""Label of a pixel that is of no class."""
UNKNOWN = -1
"""In a `class_of`: a value that must not occur."""

_TRIED = 4  # pairs, before training starts


@dataclasses.dataclass(frozen=True)
class LabelMaps:
    """Training and test images; a label is an index of a name, or 255 for none."""

    train: "LabelMapSource"
    test: "LabelMapSource"
    class_names: tuple[str, ...]


class LabelMapSource:
    """A source, see `sources`, whose labels are maps.

    Its batches are float32 (B, H, W, 3), raw RGB, and uint8 (B, H, W). A `transform` (see
    `augment_maps`) is given both in one array (H, W, 4).

    Args:
        source: A source of uint8 (H, W, 4), the label behind the colours.
        left_out: Names of images that are not in it, since they have no label map.
    """

    def __init__(self, source, left_out=()):
        self._source, self._left_out = source, tuple(left_out)

    def __len__(self):
        return len(self._source)

    @property
    def skipped(self):
        """Names of what was left out, and of what could not be read so far."""
        return [*self._left_out, *self._source.skipped]

    def batches(self, batch_size, transform):
        """See `sources`."""
        return self._source.batches(batch_size, transform).map(_apart)

    def training_batches(self, batch_size, transform, seed, epochs):
        """See `sources`."""
        batches = self._source.training_batches(batch_size, transform, seed, epochs)
        return batches.map(_apart)


def _apart(both, _):
    return both[..., :3], tf.cast(both[..., 3], "uint8")


def source_of_arrays(images, label_maps):
    """A source of images uint8 (N, H, W, 3) and label maps uint8 (N, H, W)."""
    both = np.concatenate([images, label_maps[..., None]], axis=-1)
    return LabelMapSource(ArraySource(both, np.zeros(len(both), "int32")))


def source_of_files(pairs, class_of, left_out=()):
    """A source of image files and PNG files of labels.

    Args:
        pairs: (image's path, label map's path) each.
        class_of: Value in a label map -> class, 255 or `UNKNOWN`, int16 (256,).
        left_out: Names of images without a label map, see `LabelMapSource.skipped`.

    Raises:
        ValueError: None of the first few pairs can be read.
    """
    _check_first(pairs, class_of)
    if left_out:
        logging.warning(
            "Leaving out %d images without a label map, such as %s",
            len(left_out),
            left_out[0],
        )
    with tf.device("CPU"):
        files = tf.constant([[os.fsencode(path) for path in pair] for pair in pairs])

    def examples(seed):
        order = tf.data.Dataset.range(len(pairs))
        if seed is not None:
            order = order.shuffle(len(pairs), seed)
        return order.map(lambda index: (files[index, 0], files[index], 0))

    def read(pair):
        return tf.stack([tf.io.read_file(pair[0]), tf.io.read_file(pair[1])])

    return source_of_encoded(examples, len(pairs), class_of, read, left_out)


def source_of_encoded(examples, size, class_of, read=tf.identity, left_out=()):
    """A source of encoded images and label maps.

    Args:
        examples, size, read: As of `EncodedSource`, whose "encoded" are (image, label
            map), strings (2,).
        class_of, left_out: As of `source_of_files`.
    """

    def decode(pair):
        image = tf.numpy_function(
            lambda pair: decode_pair(*pair, class_of),
            [pair],
            "uint8",
            stateful=False,
        )
        return tf.ensure_shape(image, (None, None, 4))

    source = EncodedSource(examples, size, read, decode, channels=4)
    return LabelMapSource(source, left_out)


def decode_pair(image, labels, class_of):
    """An encoded image and an encoded label map as uint8 (H, W, 4).

    The values of a palette PNG are its indices.

    Raises:
        ValueError, OSError: They cannot be read, or do not belong together.
    """
    image = np.asarray(_opened(image, "image").convert("RGB"))
    labels = np.asarray(_opened(labels, "label map"))
    if labels.ndim != 2:
        raise ValueError(
            f"A label map must have one channel. Received: {labels.shape[2]} channels"
        )
    if image.shape[:2] != labels.shape:
        raise ValueError(
            "An image and its label map must be of one size. Received: "
            f"{image.shape[1]}x{image.shape[0]} and {labels.shape[1]}x{labels.shape[0]}"
        )
    values = np.unique(labels)
    unknown = [int(v) for v in values if not 0 <= v < 256 or class_of[v] == UNKNOWN]
    if unknown:
        raise ValueError(
            f"A label map must hold labels of the data set. Received: {unknown[:5]}"
        )
    return np.concatenate([image, class_of[labels][..., None].astype("uint8")], axis=-1)


def _opened(encoded, what):
    try:
        return Image.open(io.BytesIO(encoded))
    except UnidentifiedImageError:
        raise ValueError(f"The {what} is no PNG or JPEG file") from None


def _check_first(pairs, class_of):
    reasons = []
    for image, labels in pairs[:_TRIED]:
        try:
            with open(image, "rb") as first, open(labels, "rb") as second:
                decode_pair(first.read(), second.read(), class_of)
        except (ValueError, OSError) as error:
            reasons.append(f"{labels}: {error}")
        else:
            return
    raise ValueError(f"The first images cannot be read with their labels. {reasons[0]}")
