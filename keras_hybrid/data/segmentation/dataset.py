"""Images with a class for each pixel."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from keras_hybrid.data.folders import images_in
from keras_hybrid.data.random_crops import IGNORED
from keras_hybrid.data.segmentation.decoding import (
    classes_of,
    decode_labels,
    decode_pair,
    decode_part_of_pair,
)
from keras_hybrid.data.sources import ArraySource, EncodedSource
from keras_hybrid.data.transforms import Transform

_SUFFIXES = ".png", ".bmp", ".gif", ".tif", ".tiff"  # of lossless formats
_CHECKED = 4  # pairs that are decoded before training starts
_SAMPLED = 16  # label maps whose values are collected


@dataclasses.dataclass(frozen=True)
class SegmentationDataset:
    """Training and test images; a label is an index of `class_names`, or 255 for none."""

    train: "SegmentationSource"
    test: "SegmentationSource"
    class_names: tuple[str, ...]


class SegmentationSource:
    """A source, as described in `sources`, whose labels are label maps.

    Its batches are float32 (B, H, W, 3), raw RGB, and uint8 (B, H, W). `transform` is one
    of those in `augment`.

    Args:
        source: Source whose images are pairs, uint8 (H, W, 3) and uint8 (H, W).
        left_out: Names of images that are left out because they have no label map.
        shown: Classes that occur in the label maps: all of them, or at least two. None if
            unknown.
    """

    def __init__(
        self,
        source: ArraySource | EncodedSource,
        left_out: Sequence[str] = (),
        shown: tuple[int, ...] | None = None,
    ) -> None:
        self._source, self._left_out, self.shown = source, tuple(left_out), shown

    def __len__(self) -> int:
        return len(self._source)

    @property
    def skipped(self) -> list[str]:
        """Names of images that were left out or could not be read so far."""
        return [*self._left_out, *self._source.skipped]

    def batches(self, batch_size: int, transform: Transform) -> tf.data.Dataset:
        """Batches of all images in order; see `sources`."""
        return self._source.batches(batch_size, transform).map(_pair)

    def training_batches(
        self,
        batch_size: int,
        transform: Transform,
        seed: int,
        epochs: range,
        context: tf.distribute.InputContext | None = None,
    ) -> tf.data.Dataset:
        """Shuffled batches of all `epochs`; see `sources`."""
        return self._source.training_batches(
            batch_size, transform, seed, epochs, context
        ).map(_pair)


def _pair(pair, _):
    return pair


def source_of_arrays(images: np.ndarray, label_maps: np.ndarray) -> SegmentationSource:
    """A source of images uint8 (N, H, W, 3) and label maps uint8 (N, H, W)."""
    no_labels = np.zeros(len(images), "int32")
    return SegmentationSource(ArraySource((images, label_maps), no_labels))


def pairs_in(
    images: pathlib.Path, labels: pathlib.Path
) -> tuple[list[tuple[pathlib.Path, pathlib.Path]], list[str], int]:
    """Pairs the files of two folders that have the same name, whatever their suffixes.

    Args:
        images: Folder of images.
        labels: Folder of label maps.

    Returns:
        (sorted pairs of paths for `source_of_files`; names of the images without a label
        map; number of label maps).
    """
    (image_names,) = images_in([images])
    (label_names,) = images_in([labels], _SUFFIXES)
    label_of = {os.path.splitext(name)[0]: labels / name for name in label_names}
    found = [(images / n, label_of.get(os.path.splitext(n)[0])) for n in image_names]
    pairs = [pair for pair in found if pair[1]]
    left_out = [str(image) for image, label_map in found if not label_map]
    return pairs, left_out, len(label_names)


def source_of_files(
    pairs: Sequence[tuple[pathlib.Path, pathlib.Path]],
    class_of: np.ndarray,
    left_out: Sequence[str] = (),
) -> SegmentationSource:
    """A source of image files and label map files.

    Args:
        pairs: Pairs (path of the image, path of its label map).
        class_of: Class, 255 or `UNKNOWN` for each label value, int16 (256,).
        left_out: Names of images without a label map, see `SegmentationSource.skipped`.

    Raises:
        ValueError: If none of the first few pairs can be read.
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
    examples: Callable[[tf.Tensor | None], tf.data.Dataset],
    size: int,
    class_of: np.ndarray,
    read: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
    left_out: Sequence[str] = (),
    shown: tuple[int, ...] | None = None,
) -> SegmentationSource:
    """A source of encoded images and label maps.

    Args:
        examples, size, read: As in `EncodedSource`; `read` returns (image, label map),
            strings (2,).
        class_of, left_out: As in `source_of_files`.
        shown: As in `SegmentationSource`.
    """

    def decode_part(pair, box_of):
        return decode_part_of_pair(pair, class_of, box_of)

    source = EncodedSource(examples, size, read, decode_part)
    return SegmentationSource(source, left_out, shown)


def _check_first(pairs, class_of):
    reasons = []
    for image, labels in pairs[:_CHECKED]:
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
    raise ValueError(
        f"The first images cannot be read with their label maps. {reasons[0]}"
    )


def _classes_shown(pairs, class_of):
    """Sorted classes that occur in the label maps; stops as soon as there are two."""
    shown = set()
    for labels in _readable(pairs):
        try:
            shown.update(np.unique(classes_of(labels, class_of)).tolist())
        except ValueError:
            continue  # training skips it too
        shown.discard(IGNORED)
        if len(shown) > 1:
            break
    return tuple(sorted(shown))


def values_in(pairs: Sequence[tuple[pathlib.Path, pathlib.Path]]) -> set[int]:
    """Label values that occur in a sample of the label maps."""
    few = itertools.islice(_readable(pairs), _SAMPLED)
    return set().union(*(np.unique(labels).tolist() for labels in few))


def _readable(pairs):
    """Yields label maps in random order, since neighbours often show the same scene."""
    for index in np.random.default_rng(0).permutation(len(pairs)):
        try:
            yield decode_labels(pathlib.Path(pairs[index][1]).read_bytes())
        except (ValueError, OSError):
            continue
