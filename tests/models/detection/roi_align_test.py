"""RoIAlign against hand-computed examples, a loop and exact bilinear samples."""

import numpy as np
import pytest
import tensorflow as tf

from keras_hybrid.models.detection.roi_align import pyramid_roi_align, roi_align


def roi_align_by_loops(features, box, stride, size):
    """RoIAlign of one box in loops, as in torchvision with `aligned=True`."""
    height, width, channels = features.shape
    x1, y1, x2, y2 = [value / stride - 0.5 for value in box]
    out = np.zeros((size, size, channels))
    for i in range(size):
        for j in range(size):
            for a in (0.25, 0.75):
                for b in (0.25, 0.75):
                    y = y1 + (i + a) * (y2 - y1) / size
                    x = x1 + (j + b) * (x2 - x1) / size
                    out[i, j] += bilinear(features, y, x, height, width) / 4
    return out


def bilinear(features, y, x, height, width):
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * features[top, left] + dx * features[top, right]
    lower = (1 - dx) * features[bottom, left] + dx * features[bottom, right]
    return (1 - dy) * upper + dy * lower


def test_roi_align_of_a_two_by_two_map():
    """A box centred between the four cells of the map 1 2 / 3 4."""
    features = np.array([[1.0, 2], [3, 4]]).reshape(1, 2, 2, 1)
    box = np.array([[[0.5, 0.5, 1.5, 1.5]]])
    # Samples lie 0.25 from the centre in both directions; their mean is its value.
    np.testing.assert_allclose(roi_align(features, box, 1, size=1), [[[[[2.5]]]]])
    cells = roi_align(features, box, 1, size=2)[0, 0, :, :, 0]
    # Cell (0, 0) has its centre at (0.25, 0.25): 1 + 0.25 * 1 + 0.25 * 2.
    np.testing.assert_allclose(cells, [[1.75, 2.25], [2.75, 3.25]])


def test_linear_features_are_sampled_exactly():
    """Samples of a + b x + c y are exact, and their mean is the value at the centre."""
    ys, xs = np.mgrid[0:12, 0:20]
    plane = (5 + 2.0 * xs - 3.0 * ys).reshape(1, 12, 20, 1)
    box = np.array([16.0, 12.0, 120.0, 76.0])  # of a 96 x 160 image, stride 8
    got = roi_align(plane, box.reshape(1, 1, 4), 8, size=4)[0, 0, :, :, 0]
    for i in range(4):
        for j in range(4):
            x = (16 + (j + 0.5) * 104 / 4) / 8 - 0.5
            y = (12 + (i + 0.5) * 64 / 4) / 8 - 0.5
            np.testing.assert_allclose(got[i, j], 5 + 2 * x - 3 * y, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_random_boxes_agree_with_loops(size):
    """Boxes inside, at, across and far beyond the edges, and one of zero area."""
    generator = np.random.default_rng(size)
    features = generator.normal(size=(2, 5, 9, 3)).astype("float32")
    corners = generator.uniform(-30, 90, (2, 8, 2, 2))
    boxes = np.concatenate([corners.min(2), corners.max(2)], axis=-1)
    boxes[0, 0] = 0, 0, 72, 40
    boxes[1, 0] = 20, 20, 20, 20
    got = roi_align(features, boxes, 8, size)
    assert got.shape == (2, 8, size, size, 3)
    for image in range(2):
        for index in range(8):
            expected = roi_align_by_loops(features[image], boxes[image, index], 8, size)
            np.testing.assert_allclose(got[image, index], expected, atol=1e-5)


def test_gradient_reaches_the_sampled_cells():
    features = tf.Variable(np.zeros((1, 4, 4, 1), "float32"))
    box = np.array([[[0.5, 0.5, 1.5, 1.5]]])
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(roi_align(features, box, 1, size=1))
    gradient = tape.gradient(value, features)[0, :, :, 0].numpy()
    expected = np.zeros((4, 4))
    expected[:2, :2] = 0.25
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_each_box_is_pooled_from_the_map_of_its_level():
    fine, coarse = np.full((1, 32, 16, 1), 1.0), np.full((1, 16, 8, 1), 2.0)
    boxes = np.array([[[8.0, 8, 16, 199.9], [8, 8, 16, 200], [0, 0, 4, 4]]])
    pooled = pyramid_roi_align([fine, coarse], boxes, (8, 16), size=2)
    assert np.unique(pooled[0, 0]) == 1  # 191.9 pixels high
    assert np.unique(pooled[0, 1]) == 2  # 192: twelve cells of 16
    assert np.unique(pooled[0, 2]) == 1


def test_roi_align_keeps_half_precision():
    features = tf.cast(np.random.default_rng(0).normal(size=(1, 8, 8, 2)), "float16")
    box = np.array([[[3.0, 5.0, 40.0, 60.0]]])
    half = roi_align(features, box, 8)
    assert half.dtype == "float16"
    full = roi_align(tf.cast(features, "float32"), box, 8)
    np.testing.assert_allclose(half, full, atol=5e-3)
