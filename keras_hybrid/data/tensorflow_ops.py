"""What `random_crops` does with tensors; `numpy_ops` does the same with arrays."""

from collections.abc import Sequence

import tensorflow as tf

from keras_hybrid.data import transforms

any, clip, concat, floor = tf.reduce_any, tf.clip_by_value, tf.concat, tf.floor
maximum, minimum, pad, prod = tf.maximum, tf.minimum, tf.pad, tf.reduce_prod
round, stack, where = tf.round, tf.stack, tf.where
cast, cond, shape = tf.cast, tf.cond, tf.shape
mirrored_if, resized = transforms.mirrored_if, transforms.resized


def resized_labels(labels: tf.Tensor, size: tf.Tensor | Sequence[int]) -> tf.Tensor:
    """Resizes a label map (H, W) by nearest neighbour."""
    return tf.image.resize(labels[..., None], size, "nearest")[..., 0]
