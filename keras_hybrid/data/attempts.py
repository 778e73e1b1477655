"""A try in the graph."""

import tensorflow as tf


def attempt(function, *tensors):
    """Runs `function` of tensors, and says whether it had no error.

    Its ops are prepared anew each time, which takes longer than most of them, so that
    there should be few.

    Returns:
        (bool tensor, what `function` returns). After an error that is zeros, of size 0
        wherever the size is not known beforehand.
    """
    results = tf.data.Dataset.from_tensors(tensors).map(lambda *x: (True, function(*x)))
    nothing = tf.data.Dataset.from_tensors(zeros_of(results.element_spec))
    return results.ignore_errors().concatenate(nothing).take(1).get_single_element()


def if_true(condition, function, *tensors):
    """What `function` returns of tensors if a bool tensor is True, else such zeros."""
    spec = tf.data.Dataset.from_tensors(tensors).map(function).element_spec
    return tf.cond(condition, lambda: function(*tensors), lambda: zeros_of(spec))


def zeros_of(spec):
    """Zeros for nested `tf.TensorSpec`s."""
    return tf.nest.map_structure(
        lambda one: tf.zeros([size or 0 for size in one.shape], one.dtype), spec
    )
