"""Shared parts of transforms, compared with TensorFlow and hand-computed values."""

import numpy as np
import pytest
import tensorflow as tf

from keras_hybrid.data import transforms


@pytest.mark.parametrize("old", [(61, 43), (7, 90), (1, 1), (33, 20)])
@pytest.mark.parametrize("new", [(33, 20), (5, 70), (1, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_resizing_is_bit_identical_to_tensorflow(old, new, dtype):
    image = np.random.default_rng(0).integers(0, 256, (*old, 3)).astype(dtype)
    expected = tf.image.resize(image, new, antialias=True)
    np.testing.assert_array_equal(transforms.resized(image, new), expected)


def test_cut_clips_boxes_to_the_image():
    image = np.arange(24).reshape(4, 6)
    np.testing.assert_array_equal(transforms.cut(image, (1, 2, 2, 3)), image[1:3, 2:5])
    np.testing.assert_array_equal(transforms.cut(image, (3, 4, 9, 9)), [[22, 23]])


def test_transform_of_one_array_and_of_several():
    """The box depends on size and label; `finish` takes the part that it selects."""
    transform = transforms.Transform(
        box=lambda size, label, seed: tf.stack([label, 0, 1, size[1]]),
        finish=lambda part, box, label, seed: (part, box[0] + label, seed),
    )
    image = np.arange(6).reshape(3, 2)
    row, number, seed = transform(image, 2, 7)
    assert row.numpy().tolist() == [[4, 5]]
    assert (int(number), seed) == (4, 7)
    rows, *_ = transform((image, -image), 1, 7)
    assert [row.numpy().tolist() for row in rows] == [[[2, 3]], [[-2, -3]]]


def test_mirrored_if_flips_columns():
    image = np.arange(6).reshape(1, 2, 3)
    straight, mirrored = (
        transforms.mirrored_if(tf.constant(which), image) for which in (False, True)
    )
    np.testing.assert_array_equal(straight, image)
    np.testing.assert_array_equal(mirrored, [[[3, 4, 5], [0, 1, 2]]])
