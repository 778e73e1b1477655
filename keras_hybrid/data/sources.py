"""Labelled images in batches, epoch after epoch.

Every source has `len(source)`, `source.skipped` (names of the images that could not be
read so far) and

    source.batches(batch_size, transform, *, training, seed)

which returns a `tf.data.Dataset` of (images, labels): float32 (B, size, size, 3) raw RGB
in 0..255 and int32 (B,). `transform` is one of `augment`. In training all images are
shuffled anew each epoch, every image has its own seed, and each epoch has
`len(source) // batch_size` whole batches. `seed`, together with `tf.random.set_seed`,
fixes order and crops. Else all images come in order, the last batch as long as it is.
"""

import re

import tensorflow as tf
from absl import logging

_PARALLEL = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}


class ArraySource:
    """Images of one size in memory.

    Args:
        images: uint8 (N, H, W, 3) raw RGB.
        labels: Integers (N,).

    >>> source = ArraySource(np.zeros((6, 8, 8, 3), "uint8"), np.arange(6))
    >>> batches = source.batches(4, augment.as_is(8), training=False, seed=0)
    >>> [len(labels) for _, labels in batches]
    [4, 2]
    """

    def __init__(self, images, labels):
        with tf.device("CPU"):
            self._images = tf.convert_to_tensor(images)
            self._labels = tf.cast(labels, "int32")
        self.skipped = []  # arrays can always be read

    def __len__(self):
        return len(self._labels)

    def batches(self, batch_size, transform, *, training, seed):
        """See the module."""
        _check_batch_size(batch_size, len(self), training)

        def load(index, element_seed):
            return transform(self._images[index], element_seed), self._labels[index]

        order = tf.data.Dataset.range(len(self))
        if training:
            order = order.shuffle(len(self), seed=seed)
        examples = _with_seeds(order, seed, training).map(load, **_PARALLEL)
        return examples.batch(batch_size, drop_remainder=training).prefetch(
            tf.data.AUTOTUNE
        )


class EncodedSource:
    """JPEG or PNG images that are decoded on the way.

    An image that cannot be read is skipped, and named in `skipped` and in a warning when
    first met. In training another one takes its place, so that no epoch is shorter.

    Args:
        examples: `examples(seed)` returns a `tf.data.Dataset` of (name, data, label), in
            order if `seed` is None, else reshuffled each time it is gone through.
        spare_examples: `spare_examples(seed)` returns the same in one fixed order, from
            which places of skipped images are filled.
        size: Number of examples.
        read: From `data` to the encoded image, both string tensors.
    """

    def __init__(self, examples, spare_examples, size, read=tf.identity):
        self._examples, self._spare_examples = examples, spare_examples
        self._size, self._read = size, read
        self.skipped = []

    def __len__(self):
        return self._size

    def batches(self, batch_size, transform, *, training, seed):
        """See the module.

        Raises:
            tf.errors.InvalidArgumentError: While iterating, when more than half of all
                images cannot be read.
        """
        _check_batch_size(batch_size, len(self), training)
        examples = self._examples(seed if training else None)
        if training:
            examples = examples.concatenate(self._spare_examples(seed))
        images = (
            _with_seeds(examples, seed, training)
            .map(self._decode_or_empty, **_PARALLEL)
            .filter(self._is_image)
            .map(
                lambda name, data, image, label, seed: (transform(image, seed), label),
                **_PARALLEL,
            )
            .batch(batch_size, drop_remainder=training)
        )
        if training:
            batches = len(self) // batch_size
            images = images.take(batches)
            images = images.apply(tf.data.experimental.assert_cardinality(batches))
        return images.prefetch(tf.data.AUTOTUNE)

    def _decode_or_empty(self, example, seed):
        """Adds the image, (0, 0, 3) where reading it fails: a try in the graph."""
        name, data, label = example
        image = tf.data.Dataset.from_tensors(data).map(self._decode).ignore_errors()
        empty = tf.data.Dataset.from_tensors(tf.zeros((0, 0, 3), "uint8"))
        image = image.concatenate(empty).take(1).get_single_element()
        return name, data, image, label, seed

    def _decode(self, data):
        """uint8 (H, W, 3), of grey, CMYK, palette, 16 bit and transparent images too."""
        image = tf.io.decode_image(self._read(data), 3, expand_animations=False)
        return tf.ensure_shape(image, (None, None, 3))

    def _is_image(self, name, data, image, label, seed):
        del label, seed
        return tf.cond(
            tf.size(image) > 0,
            lambda: True,
            lambda: tf.ensure_shape(tf.py_function(self._skip, (name, data), "bool"), ()),
        )

    def _skip(self, name, data):
        """Notes the image as skipped; returns False."""
        name = name.numpy().decode(errors="surrogateescape")
        if name not in self.skipped:
            self.skipped.append(name)
            logging.warning("Skipping image %s: %s", name, self._failure(data))
        if 2 * len(self.skipped) > len(self):
            raise ValueError(
                f"More than half of the {len(self)} images cannot be read, the first of "
                f"them {self.skipped[0]}. Are they JPEG or PNG files?"
            )
        return False

    def _failure(self, data):
        try:
            self._decode(data)
        except tf.errors.OpError as error:
            return re.sub(r"\{\{.*?\}\} ?|\[Op:.*", "", error.message).strip()
        return "only the second attempt succeeded"


def _check_batch_size(batch_size, size, training):
    if batch_size < 1 or (training and batch_size > size):
        raise ValueError(
            f"`batch_size` must be at least 1, and in training at most the {size} "
            f"images. Received: batch_size={batch_size}"
        )


def _with_seeds(examples, seed, training):
    """Pairs each example with an integer (2,), in training a new one each epoch."""
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=training)
    return tf.data.Dataset.zip(examples, seeds.batch(2, drop_remainder=True))
