"""Labelled images in batches, epoch after epoch.

Every source has `len(source)`, `source.skipped` (the names of images that could not be
read so far) and

    source.batches(batch_size, transform)
    source.training_batches(batch_size, transform, seed, epochs, context=None)

which return a `tf.data.Dataset` of (images, labels): float32 (B, size, size, 3) raw RGB
in 0..255 and int32 (B,). `transform` is a `Transform`, such as those in `augment`.

`batches` yields all images in order; the last batch may be smaller. `training_batches`
yields the batches of all `epochs`, a `range`, one epoch after the other. Each epoch goes
through the shuffled images once, in `len(source) // batch_size` full batches; a remainder
is dropped. Order and crops depend only on `seed` and the epoch, so that a run resumed at
epoch 7 sees the same batches as one that was never interrupted.

With several devices, each reads and decodes its own share:

    strategy.distribute_datasets_from_function(
        lambda context: source.training_batches(..., context)
    )

Together they see the batches that a single device would see, as long as all images can be
read.
"""

import atexit
import contextlib
import gc
import os
import re
import signal
import types
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging

from keras_hybrid.data.decoding import decode_part, message
from keras_hybrid.data.transforms import Transform, whole
from keras_hybrid.training.types import Tensor

# Twice as many images in parallel as there are cores, in the pipeline's own threads, so
# that none waits for the slowest image or for one of TensorFlow's few threads.
_PARALLEL_CALLS = 2 * os.cpu_count()
_PARALLEL = {"num_parallel_calls": _PARALLEL_CALLS, "deterministic": True}
_CHECKED = 8  # images that may be tried before training starts
_CHUNK = 64  # examples that are searched for unreadable images together
_TOO_MANY = re.compile(r"More than half of the \d+ images cannot .* a similar format\?")
# AutoGraph has nothing to convert here, and takes a second to find this out.
_without_autograph = tf.autograph.experimental.do_not_convert


class ArraySource:
    """Images of one size in memory.

    Args:
        images: Raw RGB images, uint8 (N, H, W, 3), or a tuple of arrays that `transform`
            takes.
        labels: Labels, integers (N,).

    >>> source = ArraySource(np.zeros((6, 8, 8, 3), "uint8"), np.arange(6))
    >>> [len(labels) for _, labels in source.batches(4, augment.as_is(8))]
    [4, 2]
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        with tf.device("CPU"):
            self._images = tf.nest.map_structure(tf.convert_to_tensor, images)
            self._labels = tf.cast(labels, "int32")
        self.skipped: list[str] = []  # arrays can always be read

    def __len__(self) -> int:
        return len(self._labels)

    @_without_autograph
    def batches(self, batch_size: int, transform: Transform) -> tf.data.Dataset:
        """Batches of all images in order; see the module's docstring."""
        _check_batch_size(batch_size)
        order = tf.data.Dataset.range(len(self)).enumerate()
        images = self._load(order, transform, seed=0)
        return _with_options(images.batch(batch_size))

    @_without_autograph
    def training_batches(
        self,
        batch_size: int,
        transform: Transform,
        seed: int,
        epochs: range,
        context: tf.distribute.InputContext | None = None,
    ) -> tf.data.Dataset:
        """Shuffled batches of all `epochs`; see the module's docstring."""

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
    """Encoded images that are decoded when they are needed.

    An image that cannot be read is skipped; the first time, a warning names it and
    `skipped` records it. In training another image takes its place, so that every epoch
    keeps its length.

    Args:
        examples: Function of a seed that returns a `tf.data.Dataset` of (name, data,
            label): in order if the seed is None, else shuffled with it, an int64 scalar
            tensor.
        size: Number of examples.
        read: Function from `data` to the encoded image, both string tensors. If it
            returns several strings, the first is the image.
        decode_part: Function like `decoding.decode_part`; the part may be a tuple.
    """

    def __init__(
        self,
        examples: Callable[[tf.Tensor | None], tf.data.Dataset],
        size: int,
        read: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
        decode_part: Callable[..., tuple[Any, tf.Tensor]] = decode_part,
    ) -> None:
        self._examples, self._size = examples, size
        self._read, self._decode_part = read, decode_part
        self.skipped: list[str] = []

    def __len__(self) -> int:
        return self._size

    @_without_autograph
    def batches(self, batch_size: int, transform: Transform) -> tf.data.Dataset:
        """Batches of all images in order; see the module's docstring.

        Raises:
            tf.errors.InvalidArgumentError: While iterating, if more than half of all
                images cannot be read.
        """
        _check_batch_size(batch_size)
        images = self._load(self._examples(None).enumerate(), transform, seed=0)
        return _with_options(images.batch(batch_size))

    @_without_autograph
    def training_batches(
        self,
        batch_size: int,
        transform: Transform,
        seed: int,
        epochs: range,
        context: tf.distribute.InputContext | None = None,
    ) -> tf.data.Dataset:
        """Shuffled batches of all `epochs`; see the module's docstring.

        Each of several machines fills its batches from its own share. Raises as `batches`
        does.
        """

        def images_of(epoch_seed, share):
            def load(again):
                examples = self._examples(epoch_seed + again)
                examples = share(examples.enumerate(again * len(self)))
                return self._load(examples, transform, epoch_seed)

            # Only the first repetition is used unless too few images can be read.
            return tf.data.Dataset.counter().flat_map(load)

        return _epochs(images_of, batch_size, len(self), seed, epochs, context)

    def check_readable(self) -> None:
        """Tries up to eight images, spread over all, until one can be read.

        Raises:
            ValueError: If none of them can be read.
        """
        failures = {}
        spread = self._examples(None).shard(max(1, len(self) // _CHECKED), 0)
        for name, data, _ in spread.take(_CHECKED):
            failure = self._failure(data)
            if failure is None:
                return
            failures[os.fsdecode(name.numpy())] = failure
        name, failure = next(iter(failures.items()))
        raise ValueError(
            f"{len(failures)} of {len(self)} images were tried, and none can be read, "
            f"such as {name}: {failure}"
        )

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
            # TensorFlow drops failed images silently; a gap in the indices reveals them.
            loaded = loaded.ignore_errors().concatenate(_end(count, loaded.element_spec))

            def skip_gap(expected, element):
                index, image = element

                def skip():
                    gap = names[expected:index], data[expected:index]
                    return tf.ensure_shape(tf.py_function(self._skip, gap, "string"), ())

                failure = tf.cond(index > expected, skip, lambda: "")
                passed = tf.raw_ops.Assert(condition=failure == "", data=[failure])
                with tf.control_dependencies([passed]):
                    return index + 1, (index < count, image)

            named = loaded.scan(tf.constant(0, "int64"), skip_gap)
            return named.filter(lambda is_image, image: is_image)

        def finish(is_image, image):
            return transform.finish(*image)

        # The next records are read while the current ones are decoded.
        chunks = examples.batch(_CHUNK).prefetch(1)
        return chunks.flat_map(readable).map(finish, **_PARALLEL)

    def _skip(self, names, data):
        """Records images as skipped; returns an error if there are too many of them."""
        limit = len(self) // 2
        for name, one in zip(names.numpy(), data):
            name = name.decode(errors="surrogateescape")
            if name not in self.skipped and len(self.skipped) <= limit:
                self.skipped.append(name)
                reason = self._failure(one) or "only the second attempt succeeded"
                logging.warning("Skipping image %s: %s", name, reason)
        if len(self.skipped) > limit:
            return (
                f"More than half of the {len(self)} images cannot be read, such as "
                f"{self.skipped[0]}. Are they JPEG, PNG or a similar format?"
            ).encode(errors="replace")  # TensorFlow's errors are UTF-8
        return b""

    def _failure(self, data):
        """Why an image cannot be read; None if it can."""
        try:
            self._decode_part(self._read(data), lambda size: whole(size, None, None))
        except tf.errors.OpError as error:
            return message(error)
        return None


def too_many_unreadable(error: BaseException) -> str | None:
    """Returns the message of a source that stopped, if that is what an error says."""
    found = _TOO_MANY.search(str(error))
    return found and found[0]


def _end(index, spec):
    """A last element for a dataset of the spec (index, ...): this index, then zeros."""
    zeros = tf.nest.map_structure(
        lambda one: tf.zeros([size or 0 for size in one.shape], one.dtype), spec[1]
    )
    return tf.data.Dataset.from_tensors((index, zeros))


def _epochs(images_of, batch_size, size, seed, epochs, context):
    """The batches of one machine, epoch after epoch.

    Args:
        images_of: `images_of(epoch_seed, share)` returns the images of one epoch, or
            more, as a `tf.data.Dataset`, given an int64 scalar tensor and a function that
            takes this machine's share of a `tf.data.Dataset`.
        batch_size, seed, epochs: See the module's docstring.
        size: Number of images.
        context: A `tf.distribute.InputContext`; by default that of a single machine.
    """
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"`batch_size` must be at least 1, and in training at most {size}, the "
            f"number of images. Received: batch_size={batch_size}"
        )
    context = context or tf.distribute.InputContext()
    machines, machine = context.num_input_pipelines, context.input_pipeline_id
    batches_a_step = context.num_replicas_in_sync // machines
    count = size // batch_size * batches_a_step

    def share(examples):
        return examples.shard(machines, machine)

    def batches_of_epoch(epoch):
        # For this graph only: with a global seed of 0, `shuffle` takes no tensor as seed.
        tf.compat.v1.set_random_seed(1)
        shape, high = (), 1 << 62
        epoch_seed = tf.random.stateless_uniform(shape, (seed, epoch), 0, high, "int64")
        own_size = context.get_per_replica_batch_size(batch_size)
        images = images_of(epoch_seed, share)
        return images.batch(own_size, drop_remainder=True).take(count)

    batches = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(batches_of_epoch)
    batches = batches.apply(tf.data.experimental.assert_cardinality(len(epochs) * count))
    return _with_options(batches)


def _with_options(batches):
    """Sets how machines share the batches, the number of threads, and no autotuning.

    Machines share image by image, so that together they see the batches of one. By
    default they would share the files of a data set that is read from files. The threads
    belong to this pipeline alone. Autotuning is off because in TensorFlow 2.21 its thread
    makes the next evaluation wait for as long as the whole epoch took.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = _PARALLEL_CALLS
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def _check_batch_size(batch_size):
    if batch_size < 1:
        raise ValueError(
            f"`batch_size` must be at least 1. Received: batch_size={batch_size}"
        )


@atexit.register
def _end_pipelines():
    """Deletes all iterators that are left when Python exits, as after Ctrl-C.

    A pipeline reads ahead, and some images take it into Python. It can no longer enter
    that once Python has begun to exit, and the process would wait for it forever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave some
    iterators = tf.data.Iterator, tf.distribute.DistributedIterator
    for one in gc.get_objects():
        # `isinstance` would ask a proxy for the class of what it stands for.
        if any(type.__subclasscheck__(kind, type(one)) for kind in iterators):
            vars(one).clear()
        elif type(one) is types.TracebackType:
            with contextlib.suppress(RuntimeError):  # its function is running
                one.tb_frame.clear()
