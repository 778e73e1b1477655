"""Augmentation of images together with their label maps."""

import numpy as np
import pytest
import tensorflow as tf

from keras_hybrid.data.segmentation import IGNORED
from keras_hybrid.data.segmentation.augment import (
    padded_to_multiple,
    random_scale_crop_flip,
)


def ramp(height=40, width=60):
    """Colours and labels that increase to the right; red is 4 times the label."""
    row = np.arange(width, dtype="uint8")
    return np.broadcast_to(
        np.stack([4 * row, row, row, row], axis=-1), (height, width, 4)
    )


def crops(image, size, count=300):
    transform = random_scale_crop_flip(size)
    seeds = tf.data.Dataset.range(count).map(
        lambda i: transform(image, 0, tf.stack([i, 0]))[0]
    )
    return np.stack(list(seeds.as_numpy_iterator()))


def test_image_and_labels_are_transformed_together():
    both = crops(ramp(), (16, 24))
    assert both.shape == (300, 16, 24, 4)
    known = both[..., 3] != 255
    inside = known.copy()  # at the edge of the image, colours are mixed with black
    inside[:, :, 1:-1] &= known[:, :, 2:] & known[:, :, :-2]
    inside[:, 1:-1] &= known[:, 2:] & known[:, :-2]
    red, label = both[..., 0], both[..., 3]
    assert np.abs(red / 4 - label)[inside].max() < 1.5
    np.testing.assert_array_equal(label[known], np.round(label[known]))


def test_scales_are_uniform_and_half_is_mirrored():
    slopes = np.diff(crops(ramp(), (16, 16), 600)[:, 8, :, 0], axis=1)[:, 6:9].mean(1) / 4
    assert 0.4 < np.mean(slopes < 0) < 0.6
    scales = 1 / np.abs(slopes)
    assert scales.min() == pytest.approx(0.5, abs=0.05)
    assert scales.max() == pytest.approx(1.5, abs=0.12)
    assert np.mean(scales) == pytest.approx(1.0, abs=0.05)


def test_crops_reach_every_edge_and_pad_small_images():
    labels = crops(ramp(), (16, 16), 600)[..., 3]
    assert {0, 59} <= set(labels.ravel())
    assert 255 not in labels  # 16 / 0.5 fits into 40
    both = crops(ramp(10, 10), (32, 32), 50)
    padding = both[..., 3] == 255
    assert padding.any(axis=(1, 2)).all()
    assert (
        both[padding][:, :3].max() < 4 * 10
    )  # black, except for mixed colours at the edge


def test_crops_are_a_function_of_the_seed():
    transform = random_scale_crop_flip((16, 24))
    one, two, other = (transform(ramp(), 0, tf.constant([s, 1]))[0] for s in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert np.any(one != other)


def test_padded_to_multiple_pads_with_black_and_ignored_labels():
    both = padded_to_multiple(32)(ramp(40, 64), 0, None)[0].numpy()
    assert both.shape == (64, 64, 4)
    np.testing.assert_array_equal(both[:40], ramp(40, 64))
    assert (both[40:, :, :3] == 0).all()
    assert (both[40:, :, 3] == IGNORED).all()
