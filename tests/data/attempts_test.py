"""What fails says so, and the graph goes on."""

import numpy as np
import tensorflow as tf

from keras_hybrid.data.attempts import attempt, if_true


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


def test_if_true_runs_nothing_else():
    for number in (2, -2):
        rows, _ = if_true(tf.constant(number > 0), checked, number)
        assert rows.shape == ((2, 2) if number > 0 else (0, 2))
