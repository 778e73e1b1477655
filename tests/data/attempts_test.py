"""What fails says so, and the graph goes on."""

import numpy as np
import tensorflow as tf

from keras_hybrid.data.attempts import attempt


def checked(number):
    with tf.control_dependencies([tf.debugging.assert_positive(number)]):
        return tf.fill((number, 2), number), tf.strings.as_string(number)


def test_attempts_in_a_graph():
    numbers = tf.data.Dataset.from_tensor_slices([3, -1, 1])
    results = list(numbers.map(lambda number: attempt(checked, number)))
    assert [bool(ok) for ok, _ in results] == [True, False, True]
    (rows, text), (nothing, no_text), _ = (result for _, result in results)
    np.testing.assert_array_equal(rows, np.full((3, 2), 3))
    assert text == b"3"
    assert nothing.shape == (0, 2)
    assert no_text == b""
