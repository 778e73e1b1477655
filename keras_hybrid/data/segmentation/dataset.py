"""Images with a class for each pixel."""

import dataclasses
import itertools
import os
import pathlib

import numpy as np
import tensorflow as tf
from absl import logging

from keras_hybrid.data.folders import images_in
from keras_hybrid.data.segmentation.decoding import (
    classes_of,
    decode_labels,
    decode_pair,
    decode_part_of_pair,
)
from keras_hybrid.data.sources import ArraySource, EncodedSource

IGNORED = 255
"""Label of a pixel that is of no class."""
_SUFFIXES = ".png", ".bmp", ".gif", ".tif", ".tiff"  # of formats that lose nothing
_TRIED = 4  # pairs, before training starts
_LOOKED_AT = 16  # label maps, for their values


@dataclasses.dataclass(frozen=True)
class SegmentationDataset:
    """Training and test images; a label is an index of a name, or 255 for none."""

    train: "SegmentationSource"
    test: "SegmentationSource"
    class_names: tuple[str, ...]


class SegmentationSource:
    """A source, see `sources`, whose labels are maps.

    Its batches are float32 (B, H, W, 3), raw RGB, and uint8 (B, H, W). `transform` is one
    of `augment`.

    Args:
        source: A source of pairs, uint8 (H, W, 3) and uint8 (H, W), as its images.
        left_out: Names of images that are not in it, since they have no label map.
        shown: Classes that have a pixel in its label maps: all, or two of them. None if
            nobody has looked.
    """

    def __init__(self, source, left_out=(), shown=None):
        self._source, self._left_out, self.shown = source, tuple(left_out), shown

    def __len__(self):
        return len(self._source)

    @property
    def skipped(self):
        """Names of what was left out, and of what could not be read so far."""
        return [*self._left_out, *self._source.skipped]

    def batches(self, batch_size, transform):
        """See `sources`."""
        return self._source.batches(batch_size, transform).map(_pair)

    def training_batches(self, batch_size, transform, seed, epochs, context=None):
        """See `sources`."""
        return self._source.training_batches(
            batch_size, transform, seed, epochs, context
        ).map(_pair)


def _pair(pair, _):
    return pair


def source_of_arrays(images, label_maps):
    """A source of images uint8 (N, H, W, 3) and label maps uint8 (N, H, W)."""
    no_labels = np.zeros(len(images), "int32")
    return SegmentationSource(ArraySource((images, label_maps), no_labels))


def pairs_in(images, labels):
    """Files of one name in two folders, whatever their suffixes.

    Args:
        images, labels: Paths of the folders.

    Returns:
        (pairs of paths as `source_of_files` takes them, sorted; names of the images
        without a label map; number of label maps).
    """
    (image_names,) = images_in([images])
    (label_names,) = images_in([labels], _SUFFIXES)
    label_of = {os.path.splitext(name)[0]: labels / name for name in label_names}
    found = [(images / n, label_of.get(os.path.splitext(n)[0])) for n in image_names]
    pairs = [pair for pair in found if pair[1]]
    left_out = [str(image) for image, label_map in found if not label_map]
    return pairs, left_out, len(label_names)


def source_of_files(pairs, class_of, left_out=()):
    """A source of image files and files of labels.

    Args:
        pairs: (image's path, label map's path) each.
        class_of: Value in a label map -> class, 255 or `UNKNOWN`, int16 (256,).
        left_out: Names of images without a label map, see `SegmentationSource.skipped`.

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

    shown = _classes_shown(pairs, class_of)
    return source_of_encoded(examples, len(pairs), class_of, read, left_out, shown)


def source_of_encoded(
    examples, size, class_of, read=tf.identity, left_out=(), shown=None
):
    """A source of encoded images and label maps.

    Args:
        examples, size, read: As of `EncodedSource`, whose "encoded" are (image, label
            map), strings (2,).
        class_of, left_out: As of `source_of_files`.
        shown: As of `SegmentationSource`.
    """

    def decode_part(pair, box_of):
        return decode_part_of_pair(pair, class_of, box_of)

    source = EncodedSource(examples, size, read, decode_part)
    return SegmentationSource(source, left_out, shown)


def _check_first(pairs, class_of):
    reasons = []
    for image, labels in pairs[:_TRIED]:
        try:
            decode_pair(
                pathlib.Path(image).read_bytes(),
                pathlib.Path(labels).read_bytes(),
                class_of,
            )
        except (ValueError, OSError) as error:
            reasons.append(f"{labels}: {error}")
        else:
            return
    raise ValueError(f"The first images cannot be read with their labels. {reasons[0]}")


def _classes_shown(pairs, class_of):
    """Sorted classes that have a pixel in the label maps; not all if there are two."""
    shown = set()
    for labels in _readable(pairs):
        try:
            shown.update(np.unique(classes_of(labels, class_of)).tolist())
        except ValueError:
            continue  # it is skipped in training too
        shown.discard(IGNORED)
        if len(shown) > 1:
            break
    return tuple(sorted(shown))


def values_in(pairs):
    """The values of a few label maps, a set."""
    few = itertools.islice(_readable(pairs), _LOOKED_AT)
    return set().union(*(np.unique(labels).tolist() for labels in few))


def _readable(pairs):
    """The label maps in an order of no meaning: neighbours are often of one scene."""
    for index in np.random.default_rng(0).permutation(len(pairs)):
        try:
            yield decode_labels(pathlib.Path(pairs[index][1]).read_bytes())
        except (ValueError, OSError):
            continue
