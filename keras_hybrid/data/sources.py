"""Labelled images in batches, epoch after epoch.

Every source has `len(source)`, `source.skipped` (names of the images that could not be
read so far) and

    source.batches(batch_size, transform)
    source.training_batches(batch_size, transform, seed, epochs)

which return a `tf.data.Dataset` of (images, labels): float32 (B, size, size, 3) raw RGB
in 0..255 and int32 (B,). `transform` is one of `augment`.

`batches` are all images in order, the last batch as long as it is. `training_batches` are
those of all `epochs`, a `range`, one behind the other. In each epoch every image comes
once, in `len(source) // batch_size` whole batches; order and crops are a function of
`seed` and the epoch, so that a run that goes on at epoch 7 sees what it would have seen.
"""

import re

import tensorflow as tf
from absl import logging

from keras_hybrid.data.decoding import decode_image

_PARALLEL = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}


class ArraySource:
    """Images of one size in memory.

    Args:
        images: uint8 (N, H, W, 3) raw RGB.
        labels: Integers (N,).

    >>> source = ArraySource(np.zeros((6, 8, 8, 3), "uint8"), np.arange(6))
    >>> [len(labels) for _, labels in source.batches(4, augment.as_is(8))]
    [4, 2]
    """

    def __init__(self, images, labels):
        with tf.device("CPU"):
            self._images = tf.convert_to_tensor(images)
            self._labels = tf.cast(labels, "int32")
        self.skipped = []  # arrays can always be read

    def __len__(self):
        return len(self._labels)

    def batches(self, batch_size, transform):
        """See the module."""
        _check_batch_size(batch_size)
        order = tf.data.Dataset.range(len(self))
        images = self._load(order, transform, seed=0)
        return _shared(images.batch(batch_size))

    def training_batches(self, batch_size, transform, seed, epochs):
        """See the module."""

        def batches_of(epoch_seed):
            order = tf.data.Dataset.range(len(self)).shuffle(len(self), epoch_seed)
            examples = self._load(order, transform, epoch_seed)
            return examples.batch(batch_size, drop_remainder=True)

        return _epochs(batches_of, batch_size, len(self), seed, epochs)

    def _load(self, order, transform, seed):
        def load(position, index):
            seeds = tf.stack([seed, position])
            return transform(self._images[index], self._labels[index], seeds)

        return order.enumerate().map(load, **_PARALLEL)


class EncodedSource:
    """Encoded images that are decoded on the way.

    An image that cannot be read is skipped, and named in `skipped` and in a warning when
    first met. In training another one takes its place, so that no epoch is shorter.

    Args:
        examples: `examples(seed)` returns a `tf.data.Dataset` of (name, data, label), in
            order if `seed` is None, else shuffled with this int64 scalar tensor.
        size: Number of examples.
        read: From `data` to what is encoded, both string tensors.
        decode: From there to uint8 (H, W, channels).
        channels: Of the decoded images.
    """

    def __init__(self, examples, size, read=tf.identity, decode=decode_image, channels=3):
        self._examples, self._size = examples, size
        self._read, self._decode_encoded, self._channels = read, decode, channels
        self.skipped = []

    def __len__(self):
        return self._size

    def batches(self, batch_size, transform):
        """See the module.

        Raises:
            tf.errors.InvalidArgumentError: While iterating, when more than half of all
                images cannot be read.
        """
        _check_batch_size(batch_size)
        images = self._load(self._examples(None), transform, seed=0)
        return _shared(images.batch(batch_size))

    def training_batches(self, batch_size, transform, seed, epochs):
        """See the module; raises as `batches` does."""

        def batches_of(epoch_seed):
            examples, spare = self._examples(epoch_seed), self._examples(epoch_seed + 1)
            images = self._load(examples.concatenate(spare), transform, epoch_seed)
            whole = images.batch(batch_size, drop_remainder=True)
            return whole.take(len(self) // batch_size)

        return _epochs(batches_of, batch_size, len(self), seed, epochs)

    def _load(self, examples, transform, seed):
        def load(position, name, data, image, label):
            del name, data
            return transform(image, label, tf.stack([seed, position]))

        return (
            examples.enumerate()
            .map(self._decode_or_empty, **_PARALLEL)
            .filter(self._is_image)
            .map(load, **_PARALLEL)
        )

    def _decode_or_empty(self, position, example):
        """Adds the image, of no pixels where reading it fails: a try in the graph."""
        name, data, label = example
        image = tf.data.Dataset.from_tensors(data).map(self._decode).ignore_errors()
        empty = tf.data.Dataset.from_tensors(tf.zeros((0, 0, self._channels), "uint8"))
        image = image.concatenate(empty).take(1).get_single_element()
        return position, name, data, image, label

    def _decode(self, data):
        return self._decode_encoded(self._read(data))

    def _is_image(self, position, name, data, image, label):
        del position, label
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
                f"them {self.skipped[0]}. Are they JPEG, PNG or the like?"
            )
        return False

    def _failure(self, data):
        try:
            self._decode(data)
        except (tf.errors.OpError, ValueError, OSError) as error:
            message = getattr(error, "message", str(error))
            return re.sub(r"\{\{.*?\}\} ?|\[Op:.*", "", message).strip()
        return "only the second attempt succeeded"


def _epochs(batches_of, batch_size, size, seed, epochs):
    """Epoch after epoch of `batches_of(epoch_seed)`, an int64 scalar tensor."""
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"`batch_size` must be at least 1, and in training at most the {size} "
            f"images. Received: batch_size={batch_size}"
        )

    def batches_of_epoch(epoch):
        # Of this graph alone: with a global seed of 0, `shuffle` takes no tensor for its.
        tf.compat.v1.set_random_seed(1)
        shape, high = (), 1 << 62
        return batches_of(
            tf.random.stateless_uniform(shape, (seed, epoch), 0, high, "int64")
        )

    batches = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(batches_of_epoch)
    count = len(epochs) * (size // batch_size)
    batches = batches.apply(tf.data.experimental.assert_cardinality(count))
    return _shared(batches)


def _shared(batches):
    """Machines share them image by image, so that together they see the batches of one.

    By default they would share the files of a data set that is read from files.
    """
    options = tf.data.Options()
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def _check_batch_size(batch_size):
    if batch_size < 1:
        raise ValueError(
            f"`batch_size` must be at least 1. Received: batch_size={batch_size}"
        )
