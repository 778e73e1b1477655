import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_hybrid.data.classification import augment


def _noise(height, width):
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype="uint8")


def _seeds(count):
    return tf.stack([tf.range(count), tf.range(count)], axis=1)


def _over_seeds(transform, image, count):
    """Results of `transform` on one image for many seeds: (count, size, size, 3)."""
    seeds = tf.data.Dataset.from_tensor_slices(_seeds(count))
    images = seeds.map(lambda seed: transform(tf.constant(image), 3, seed)[0])
    return np.stack(list(images.as_numpy_iterator()))


def _boxes(height, width, count=800):
    seeds = tf.data.Dataset.from_tensor_slices(_seeds(count))
    boxes = seeds.map(lambda seed: augment.crop_box([height, width], seed))
    return np.stack(list(boxes.as_numpy_iterator())).T


def test_crop_boxes_lie_inside_the_image_and_reach_every_edge():
    top, left, height, width = _boxes(31, 47)
    assert top.min() == left.min() == 0
    assert height.min() >= 1
    assert width.min() >= 1
    assert (top + height).max() == 31
    assert (left + width).max() == 47


def test_crop_area_is_uniform_and_ratio_log_uniform():
    # In a square image, a sampled box of less than 3/4 of the area nearly always fits, so
    # that areas are uniform in 0.08..0.75. The interval 0.08..0.1917 then has
    # (0.1917 - 0.08) / (0.75 - 0.08) = 1/6 of them.
    _, _, height, width = _boxes(10000, 10000)
    area = height * width / 1e8
    assert 0.0799 < area.min() < 0.09
    assert 0.9 < area.max() <= 1
    small = area[area < 0.75]
    assert np.mean(small < 0.08 + 0.67 / 6) == pytest.approx(1 / 6, abs=0.05)
    assert np.mean(small < 0.08 + 0.67 / 2) == pytest.approx(1 / 2, abs=0.06)
    logs = np.log(width / height)[area < 0.75] / math.log(4 / 3)  # uniform in -1..1
    assert -1.001 < logs.min() < -0.98
    assert 0.98 < logs.max() < 1.001
    assert np.mean(logs) == pytest.approx(0, abs=0.07)
    assert np.mean(np.abs(logs) < 0.5) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("image", "box"),
    [
        # 8 percent of 1 x 90 pixels at a ratio up to 4/3 are higher than one pixel, so no
        # box fits. The central crop is round(1 * 4/3) = 1 wide, at (90 - 1) // 2 = 44.
        ((1, 90), (0, 44, 1, 1)),
        ((90, 1), (44, 0, 1, 1)),
        # 1600 x 120 = 192000 pixels, 8 percent are 15360: 107 wide at the ratio 3/4,
        # which can fit; 3200 x 60: 15360 again, and 107 > 60. Then 60 wide and
        # 60 / (3/4) = 80 high, from (3200 - 80) // 2 = 1560.
        ((3200, 60), (1560, 0, 80, 60)),
        ((60, 3200), (0, 1560, 60, 80)),
        ((1, 1), (0, 0, 1, 1)),
    ],
)
def test_central_crop_when_no_sampled_box_fits(image, box):
    np.testing.assert_array_equal(np.unique(_boxes(*image, 40), axis=1).T, [box])


def test_random_crop_equals_the_box_resized_by_pillow():
    image, seed = _noise(61, 43), tf.constant([5, 9])
    crop_seed, _ = tf.random.split(seed, 2)
    top, left, height, width = augment.crop_box([61, 43], crop_seed).numpy()
    part = Image.fromarray(image[top : top + height, left : left + width])
    expected = np.asarray(part.resize((24, 24), Image.Resampling.BILINEAR), "float32")
    ours = augment.random_resized_crop_flip(24)(tf.constant(image), 3, seed)[0].numpy()
    distance = min(np.abs(ours - x).max() for x in (expected, expected[:, ::-1]))
    assert distance <= 1.01  # Pillow rounds to integers, twice


def test_half_of_the_crops_are_mirrored():
    # Brighter to the right unless mirrored. For 400 samples, 0.5 +- 3 * 0.025.
    ramp = np.tile(np.arange(40, dtype="uint8")[None, :, None] * 6, (40, 1, 3))
    images = _over_seeds(augment.random_resized_crop_flip(8), ramp, 400)
    mirrored = images[:, 0, 0, 0] > images[:, 0, -1, 0]
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.075)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 7)])
@pytest.mark.parametrize(
    "make", [augment.random_resized_crop_flip, augment.resize_center_crop]
)
def test_images_of_any_shape_give_crops_of_the_size(make, shape):
    image = np.full((*shape, 3), 77, "uint8")
    images = _over_seeds(make(9), image, 3)
    assert images.shape == (3, 9, 9, 3)
    assert images.dtype == "float32"
    np.testing.assert_allclose(images, 77, rtol=1e-5)


def _pillow_evaluation_crop(image, size):
    """Evaluation crop by Pillow, as torchvision's `Resize` and `CenterCrop` do it."""
    height, width = image.shape[:2]
    short = round(size * 256 / 224)
    if height < width:
        height, width = short, int(short * width / height)
    else:
        height, width = int(short * height / width), short
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return np.asarray(resized, "float32")[top : top + size, left : left + size]


@pytest.mark.parametrize("size", [224, 33])
@pytest.mark.parametrize("shape", [(375, 500), (501, 333), (97, 60), (256, 256)])
def test_evaluation_crop_equals_that_of_pillow(shape, size):
    image = _noise(*shape)
    ours = augment.resize_center_crop(size)(tf.constant(image), 3, None)[0].numpy()
    expected = _pillow_evaluation_crop(image, size)
    assert np.abs(ours - expected).max() <= 1.01  # Pillow rounds to integers, twice
    assert np.abs(ours - expected).mean() < 0.4


def test_evaluation_crop_of_a_panorama_resizes_only_the_crop():
    # Resizing the whole image would give 256 x 5 120 000 pixels.
    image = tf.zeros((1, 20000, 3), "uint8")
    assert augment.resize_center_crop(224)(image, 3, None)[0].shape == (224, 224, 3)


def test_pad_crop_flip_reaches_every_shift():
    # The position of the central bright pixel reveals the shift. With padding 1, it can
    # reach all nine pixels.
    image = np.zeros((3, 3, 3), "uint8")
    image[1, 1] = 255
    images = _over_seeds(augment.pad_crop_flip(3, padding=1), image, 300)
    assert np.all(images.sum(axis=(1, 2, 3)) == 3 * 255)
    counts = (images[..., 0] == 255).sum(axis=0)
    assert counts.sum() == 300
    assert counts.min() > 300 / 9 / 2


def test_pad_crop_flip_pads_with_black_and_mirrors_half():
    image = np.full((4, 4, 3), 9, "uint8")
    image[:, 2:] = 200
    images = _over_seeds(augment.pad_crop_flip(4, padding=1), image, 400)
    assert set(np.unique(images)) == {0, 9, 200}
    right = images[:, 1, 3, 0] + images[:, 1, 2, 0]
    left = images[:, 1, 0, 0] + images[:, 1, 1, 0]
    assert np.mean(right > left) == pytest.approx(0.5, abs=0.075)


def test_crops_are_a_function_of_the_seed():
    image, seed = tf.constant(_noise(40, 40)), tf.constant([1, 2], "int64")
    for make in (augment.random_resized_crop_flip, augment.pad_crop_flip):
        seeds = seed, seed, tf.constant([1, 3], "int64")
        first, again, other = (make(40)(image, 3, seed)[0] for seed in seeds)
        np.testing.assert_array_equal(first, again)
        assert np.any(first != other)


def test_as_is_converts_to_float32():
    image = _noise(5, 5)
    ours, label = augment.as_is(5)(tf.constant(image), 3, None)
    assert label == 3
    np.testing.assert_array_equal(ours, image.astype("float32"))
    assert ours.dtype == "float32"


@pytest.mark.parametrize("make", [augment.as_is, augment.pad_crop_flip])
def test_transforms_without_resizing_reject_other_sizes(make):
    with pytest.raises(ValueError, match="(?s)compatible|must be equal|same"):
        tf.function(make(5))(tf.zeros((5, 6, 3), "uint8"), 3, tf.constant([0, 0]))
