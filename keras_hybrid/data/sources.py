"""Labelled images in batches, epoch after epoch.

Every source has `len(source)`, `source.skipped` (names of the images that could not be
read so far) and

    source.batches(batch_size, transform)
    source.training_batches(batch_size, transform, seed, epochs, context=None)

which return a `tf.data.Dataset` of (images, labels): float32 (B, size, size, 3) raw RGB
in 0..255 and int32 (B,). `transform` is a `Transform`, one of `augment`.

`batches` are all images in order, the last batch as long as it is. `training_batches` are
those of all `epochs`, a `range`, one behind the other. In each epoch every image comes
once, in `len(source) // batch_size` whole batches; order and crops are a function of
`seed` and the epoch, so that a run that goes on at epoch 7 sees what it would have seen.

On several devices each reads and decodes its own share:

    strategy.distribute_datasets_from_function(
        lambda context: source.training_batches(..., context)
    )

Together they see the batches of one, as long as all images can be read.
"""

import os
import re

import tensorflow as tf
from absl import logging

from keras_hybrid.data.decoding import decode_part
from keras_hybrid.data.transforms import whole

# Twice as many images at a time as there are cores, in threads of their own: none waits
# for the slowest image, nor for one of TensorFlow's threads, of which there are few.
_AT_A_TIME = 2 * os.cpu_count()
_PARALLEL = {"num_parallel_calls": _AT_A_TIME, "deterministic": True}
_CHUNK = 64  # examples whose gaps are looked for together
# AutoGraph has nothing to convert here, and takes a second to find that out.
_without_autograph = tf.autograph.experimental.do_not_convert


class ArraySource:
    """Images of one size in memory.

    Args:
        images: uint8 (N, H, W, 3) raw RGB, or a tuple of arrays that `transform` takes.
        labels: Integers (N,).

    >>> source = ArraySource(np.zeros((6, 8, 8, 3), "uint8"), np.arange(6))
    >>> [len(labels) for _, labels in source.batches(4, augment.as_is(8))]
    [4, 2]
    """

    def __init__(self, images, labels):
        with tf.device("CPU"):
            self._images = tf.nest.map_structure(tf.convert_to_tensor, images)
            self._labels = tf.cast(labels, "int32")
        self.skipped = []  # arrays can always be read

    def __len__(self):
        return len(self._labels)

    @_without_autograph
    def batches(self, batch_size, transform):
        """See the module."""
        _check_batch_size(batch_size)
        order = tf.data.Dataset.range(len(self)).enumerate()
        images = self._load(order, transform, seed=0)
        return _shared(images.batch(batch_size))

    @_without_autograph
    def training_batches(self, batch_size, transform, seed, epochs, context=None):
        """See the module."""

        def images_of(epoch_seed, share):
            order = tf.data.Dataset.range(len(self)).shuffle(len(self), epoch_seed)
            return self._load(share(order.enumerate()), transform, epoch_seed)

        return _epochs(images_of, batch_size, len(self), seed, epochs, context)

    def _load(self, order, transform, seed):
        def load(position, index):
            image = tf.nest.map_structure(lambda array: array[index], self._images)
            return transform(image, self._labels[index], tf.stack([seed, position]))

        return order.map(load, **_PARALLEL)


class EncodedSource:
    """Encoded images that are decoded on the way.

    An image that cannot be read is skipped, and named in `skipped` and in a warning when
    first met. In training another one takes its place, so that no epoch is shorter.

    Args:
        examples: `examples(seed)` returns a `tf.data.Dataset` of (name, data, label), in
            order if `seed` is None, else shuffled with this int64 scalar tensor.
        size: Number of examples.
        read: From `data` to what is encoded, both string tensors. Of several encoded
            strings the first is the image.
        decode_part: As `decoding.decode_part`; the part may be a tuple of several.
    """

    def __init__(self, examples, size, read=tf.identity, decode_part=decode_part):
        self._examples, self._size = examples, size
        self._read, self._decode_part = read, decode_part
        self.skipped = []

    def __len__(self):
        return self._size

    @_without_autograph
    def batches(self, batch_size, transform):
        """See the module.

        Raises:
            tf.errors.InvalidArgumentError: While iterating, when more than half of all
                images cannot be read.
        """
        _check_batch_size(batch_size)
        images = self._load(self._examples(None).enumerate(), transform, seed=0)
        return _shared(images.batch(batch_size))

    @_without_autograph
    def training_batches(self, batch_size, transform, seed, epochs, context=None):
        """See the module; raises as `batches` does.

        Each of several machines fills up its batches from its own share.
        """

        def images_of(epoch_seed, share):
            def load(again):
                examples = self._examples(epoch_seed + again)
                examples = share(examples.enumerate(again * len(self)))
                return self._load(examples, transform, epoch_seed)

            # Again only if too few of them can be read.
            return tf.data.Dataset.counter().flat_map(load)

        return _epochs(images_of, batch_size, len(self), seed, epochs, context)

    def _load(self, examples, transform, seed):
        def load(index, position, data, label):
            seeds = tf.stack([seed, position])
            part, box = self._decode_part(
                self._read(data), lambda size: transform.box(size, label, seeds)
            )
            return index, (part, box, label, seeds)

        def readable(positions, examples):
            """The images of one chunk that can be read."""
            names, data, labels = examples
            count = tf.size(positions, "int64")
            chunk = tf.range(count), positions, data, labels
            loaded = tf.data.Dataset.from_tensor_slices(chunk).map(load, **_PARALLEL)
            # TensorFlow drops what fails without a word; a gap in the indices shows it.
            loaded = loaded.ignore_errors().concatenate(_end(count, loaded.element_spec))

            def skip_gap(expected, element):
                index, image = element

                def skip():
                    gap = names[expected:index], data[expected:index]
                    return tf.ensure_shape(tf.py_function(self._skip, gap, "bool"), ())

                is_named = tf.cond(index > expected, skip, lambda: True)
                return index + 1, (is_named & (index < count), image)

            named = loaded.scan(tf.constant(0, "int64"), skip_gap)
            return named.filter(lambda is_image, image: is_image)

        def finish(is_image, image):
            return transform.finish(*image)

        # Records are read while those before them are decoded.
        chunks = examples.batch(_CHUNK).prefetch(1)
        return chunks.flat_map(readable).map(finish, **_PARALLEL)

    def _skip(self, names, data):
        """Notes images as skipped; returns True."""
        for name, one in zip(names.numpy(), data):
            name = name.decode(errors="surrogateescape")
            if name not in self.skipped:
                self.skipped.append(name)
                logging.warning("Skipping image %s: %s", name, self._failure(one))
        if 2 * len(self.skipped) > len(self):
            raise ValueError(
                f"More than half of the {len(self)} images cannot be read, the first of "
                f"them {self.skipped[0]}. Are they JPEG, PNG or the like?"
            )
        return True

    def _failure(self, data):
        try:
            self._decode_part(self._read(data), lambda size: whole(size, None, None))
        except (tf.errors.OpError, ValueError, OSError) as error:
            message = getattr(error, "message", str(error))
            return re.sub(r"\{\{.*?\}\} ?|\[Op:.*", "", message).strip()
        return "only the second attempt succeeded"


def _end(index, spec):
    """One more element of a specification (index, anything): zeros with this index."""
    zeros = tf.nest.map_structure(
        lambda one: tf.zeros([size or 0 for size in one.shape], one.dtype), spec[1]
    )
    return tf.data.Dataset.from_tensors((index, zeros))


def _epochs(images_of, batch_size, size, seed, epochs, context):
    """The batches of one machine, epoch after epoch.

    Args:
        images_of: `images_of(epoch_seed, share)` returns one epoch's, or more, as a
            `tf.data.Dataset`, given an int64 scalar tensor and a function that takes this
            machine's share of a `tf.data.Dataset`.
        batch_size, seed, epochs: See the module.
        size: Number of images.
        context: A `tf.distribute.InputContext`, by default that of a machine alone.
    """
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"`batch_size` must be at least 1, and in training at most the {size} "
            f"images. Received: batch_size={batch_size}"
        )
    context = context or tf.distribute.InputContext()
    machines, machine = context.num_input_pipelines, context.input_pipeline_id
    batches_a_step = context.num_replicas_in_sync // machines
    count = size // batch_size * batches_a_step

    def share(examples):
        return examples.shard(machines, machine)

    def batches_of_epoch(epoch):
        # Of this graph alone: with a global seed of 0, `shuffle` takes no tensor for its.
        tf.compat.v1.set_random_seed(1)
        shape, high = (), 1 << 62
        epoch_seed = tf.random.stateless_uniform(shape, (seed, epoch), 0, high, "int64")
        own_size = context.get_per_replica_batch_size(batch_size)
        images = images_of(epoch_seed, share)
        return images.batch(own_size, drop_remainder=True).take(count)

    batches = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(batches_of_epoch)
    batches = batches.apply(tf.data.experimental.assert_cardinality(len(epochs) * count))
    return _shared(batches)


def _shared(batches):
    """Machines share them image by image, so that together they see the batches of one.

    By default they would share the files of a data set that is read from files. The
    threads are those of this pipeline alone. Nor does TensorFlow tune anything: in
    TensorFlow 2.21 the thread that does makes the next evaluation wait for as much as the
    whole epoch took.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = _AT_A_TIME
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def _check_batch_size(batch_size):
    if batch_size < 1:
        raise ValueError(
            f"`batch_size` must be at least 1. Received: batch_size={batch_size}"
        )
