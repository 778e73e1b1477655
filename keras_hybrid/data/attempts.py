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
    zeros = tf.nest.map_structure(
        lambda spec: tf.zeros([size or 0 for size in spec.shape], spec.dtype),
        results.element_spec,
    )
    either = results.ignore_errors().concatenate(tf.data.Dataset.from_tensors(zeros))
    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing to tune in one element
    return either.take(1).with_options(options).get_single_element()
