"""NumPy and TensorFlow produce the same crops from the same random numbers."""

import numpy as np
import pytest
import tensorflow as tf

from keras_hybrid.data import random_crops

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (40, 60, 3), "uint8")
LABELS = RANDOM.integers(0, 5, (5, 8), "uint8").repeat(8, 0).repeat(8, 1)[:, :60]
# Crops that lie inside the image, and crops larger than the image.
SIZES = [(16, 24), (64, 48)]


def in_numpy_and_tensorflow(function, *arguments):
    """The result in NumPy, after checking that TensorFlow returns the same."""
    received = function(*arguments)
    tensors = tf.nest.map_structure(
        lambda x: tf.constant(x) if isinstance(x, np.ndarray) else x, arguments
    )
    expected = function(*tensors)
    for one, other in zip(tf.nest.flatten(received), tf.nest.flatten(expected)):
        assert isinstance(one, np.ndarray)
        assert one.dtype == other.numpy().dtype
        if one.dtype == "uint8" and one.ndim == 2:
            # Halfway between two pixels, either is the nearest neighbour.
            assert np.mean(one != other) < 0.2
        else:
            # Pillow rounds to integers twice, after rows and after columns.
            atol = 1.01 if one.ndim == 3 else 1e-4
            np.testing.assert_allclose(one, other, atol=atol)
    return received


def random_parameters():
    """Twenty triples of scale, position and whether to mirror."""
    for i in range(20):
        scale = np.float32(RANDOM.uniform(0.5, 1.5))
        yield scale, RANDOM.uniform(size=2).astype("float32"), np.bool_(i % 2)


def as_int32(*numbers):
    return np.array(numbers, "int32")


def test_shifted_crops_are_equal():
    square = IMAGE[:40, :40]
    image = in_numpy_and_tensorflow(
        random_crops.shifted, square, as_int32(1, 7), 4, False
    )
    assert not image[:3].any()
    np.testing.assert_array_equal(image[3:, :-3], square[:-3, 3:])
    mirrored = in_numpy_and_tensorflow(
        random_crops.shifted, square, as_int32(1, 7), 4, True
    )
    np.testing.assert_array_equal(mirrored, image[:, ::-1])


@pytest.mark.parametrize("size", SIZES)
def test_crops_with_label_maps_are_equal(size):
    for scale, position, mirrored in random_parameters():
        image_size = as_int32(40, 60)
        box = in_numpy_and_tensorflow(
            random_crops.box_anywhere, image_size, size, scale, position
        )
        parts = (
            in_numpy_and_tensorflow(random_crops.cut, IMAGE, box),
            random_crops.cut(LABELS, box),
        )
        _, labels = in_numpy_and_tensorflow(
            random_crops.with_label_map, *parts, box, size, mirrored
        )
        is_ignored = labels == random_crops.IGNORED
        if (box[:2] + box[2:] <= image_size).all():
            assert not is_ignored.any()
        elif size == SIZES[1]:
            assert is_ignored.any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("found", [True, False])
def test_crops_with_boxes_are_equal(size, found):
    boxes = np.array([[20, 10, 28, 30], [50, 0, 90, 39], [0, 0, 0, 0]], "float32")
    labels, corners = as_int32(1, -1, 0), []
    for scale, position, mirrored in random_parameters():
        arguments = as_int32(40, 60), size, scale, position, np.bool_(found), boxes[0]
        box = in_numpy_and_tensorflow(random_crops.box_with_object, *arguments)
        part, brightness = random_crops.cut(IMAGE, box), np.float32(0.7)
        arguments = part, box, size, mirrored, brightness
        image, geometry = in_numpy_and_tensorflow(random_crops.with_people, *arguments)
        assert image.max() <= 0.7 * 255 + 0.1
        _, moved = in_numpy_and_tensorflow(
            random_crops.move, boxes, labels, geometry, size
        )
        corners.append(tuple(box[:2]))
        if found and (box[2:] >= [20, 8]).all():
            assert moved[0] == 1
    assert len(set(corners)) > 1


def test_enlarged_images_are_equal():
    image, geometry = in_numpy_and_tensorflow(random_crops.enlarged, IMAGE, 1.5, 32)
    assert image.shape == (64, 96, 3)
    assert not image[60:].any()
    np.testing.assert_allclose(geometry, [1.5, 1.5, 0, 0, 0])
