"""Crops and enlarged images, whose boxes must match the bright people in the pixels."""

import numpy as np
import pytest
import tensorflow as tf

from keras_hybrid.data.detection.augment import enlarged, move, random_scale_crop_flip


def bright(box, size=(120, 160)):
    """A black image in which a box, [x1, y1, x2, y2], is white."""
    image = np.zeros((*size, 3), "uint8")
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return image


def extent(image):
    """[x1, x2, y1, y2] of the bright pixels."""
    light = image.mean(-1) / max(image.max(), 1)
    rows, columns = light.max(1), light.max(0)
    return [
        edge
        for axis in (columns, rows)
        for edge in (np.argmax(axis > 0.5), len(axis) - np.argmax(axis[::-1] > 0.5))
    ]


def truth_of(*boxes, labels):
    return tf.constant(boxes, "float32"), tf.constant(labels)


NO_PEOPLE = truth_of([0, 0, 0, 0], labels=[0])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("size", [(96, 128), (240, 160)])
@pytest.mark.parametrize("label", [1, -1])
def test_boxes_move_with_the_image(seed, size, label):
    box = [50, 30, 80, 90]
    truth = truth_of(box, labels=[label])
    transform = random_scale_crop_flip(size, upscale=1.3)
    image, geometry = transform(bright(box), truth, (0, seed))
    assert image.shape == (*size, 3)
    boxes, labels = move(*truth, geometry, size)
    if not np.any(image.numpy() > 20):
        assert label == -1
        assert labels.numpy().tolist() in ([0], [-1])
        return
    x1, x2, y1, y2 = extent(image.numpy())
    np.testing.assert_allclose(boxes[0], [x1, y1, x2, y2], atol=1.01)


def test_each_crop_contains_a_whole_person_at_any_position():
    """Ignore regions and padding are not chosen; all other boxes are, equally often."""
    people = [[2, 3, 8, 18], [300, 100, 310, 124], [399, 5, 400, 6]]
    others = [[200, 20, 208, 40], [0, 0, 0, 0]]
    truth = truth_of(*people, *others, labels=[1, 1, 1, -1, 0])
    transform, image = random_scale_crop_flip((64, 64)), np.zeros((200, 400, 3), "uint8")
    counts, corners = np.zeros(3), []
    for seed in range(120):
        _, geometry = transform(image, truth, (3, seed))
        factors = geometry[:2].numpy()
        corner = geometry[2:4].numpy() / factors
        end = corner + 64 / factors
        inside = [
            np.all(corner < np.array(box[:2]) + 0.01) and np.all(box[2:] < end + 0.01)
            for box in people
        ]
        assert any(inside)
        counts += inside
        if inside == [False, True, False]:
            corners.append((corner - people[1][2:]) / (64 / factors))
    assert counts.min() > 25
    corners = np.array(corners)
    assert (corners.min(axis=0) < -0.8).all()
    assert (corners.max(axis=0) > -0.4).all()


def test_a_person_larger_than_the_crop_fills_it():
    truth = truth_of([20, 20, 380, 180], labels=[1])
    transform, image = random_scale_crop_flip((16, 16)), np.zeros((200, 400, 3), "uint8")
    for seed in range(20):
        _, geometry = transform(image, truth, (0, seed))
        boxes, _ = move(*truth, geometry, (16, 16))
        np.testing.assert_allclose(boxes[0], [0, 0, 16, 16], atol=1.6)


def test_crops_differ_and_are_a_function_of_the_seed():
    transform = random_scale_crop_flip((64, 64))
    image = bright([0, 0, 160, 120])
    geometries = [transform(image, NO_PEOPLE, (0, seed))[1].numpy() for seed in range(40)]
    again = transform(image, NO_PEOPLE, (0, 3))[1].numpy()
    np.testing.assert_array_equal(geometries[3], again)
    factors = np.array(geometries)[:, 0]
    assert 0.39 < factors.min() < 0.6
    assert 1.3 < factors.max() < 1.52
    assert {0.0, 1.0} == set(np.array(geometries)[:, 4])


def test_brightness_changes_in_half_of_the_crops():
    transform = random_scale_crop_flip((32, 32))
    grey = np.full((64, 64, 3), 100, "uint8")
    values = [
        transform(grey, NO_PEOPLE, (0, seed))[0].numpy().max() for seed in range(40)
    ]
    assert 10 < np.sum(np.isclose(values, 100)) < 30
    assert min(values) >= 50
    assert max(values) <= 200
    assert np.max(transform(np.full_like(grey, 250), NO_PEOPLE, (0, 1))[0]) <= 255


def test_enlarged_image_is_padded_at_the_end():
    box = [50, 30, 80, 90]
    image, geometry = enlarged(1.3, 32)(bright(box), NO_PEOPLE, (0, 0))
    assert image.shape == (160, 224, 3)  # 156 x 208
    assert not np.any(image[156:])
    assert not np.any(image[:, 208:])
    boxes, _ = move(*truth_of(box, labels=[1]), geometry, (160, 224))
    np.testing.assert_allclose(boxes[0], np.array(box) * 1.3, rtol=1e-5)
    x1, x2, y1, y2 = extent(image.numpy())
    np.testing.assert_allclose([x1, y1, x2, y2], boxes[0], atol=1.01)


def moved(box, geometry, label=1, size=(100, 200)):
    truth = truth_of(box, labels=[label])
    boxes, labels = move(*truth, tf.constant(geometry, "float32"), size)
    return boxes[0].numpy().tolist(), int(labels[0])


def test_move_scales_shifts_and_mirrors_boxes():
    box = [10, 20, 30, 60]
    assert moved(box, [2, 1, 0, 0, 0]) == ([20, 20, 60, 60], 1)
    assert moved(box, [1, 1, 5, 10, 0]) == ([5, 10, 25, 50], 1)
    assert moved(box, [1, 1, 0, 0, 1]) == ([170, 20, 190, 60], 1)
    assert moved(box, [2, 1, 5, 10, 1]) == ([145, 10, 185, 50], 1)


def test_move_clips_ignores_or_drops_boxes_at_the_edge():
    """Clipped boxes are kept if half is inside, ignored if less, dropped if nothing."""
    assert moved([-10, 0, 10, 20], [1, 1, 0, 0, 0]) == ([0, 0, 10, 20], 1)
    assert moved([-11, 0, 10, 20], [1, 1, 0, 0, 0]) == ([0, 0, 10, 20], -1)
    assert moved([-20, 0, 0, 20], [1, 1, 0, 0, 0]) == ([0, 0, 0, 0], 0)
    assert moved([300, 0, 320, 20], [1, 1, 0, 0, 1]) == ([0, 0, 0, 0], 0)
    assert moved([150, 50, 300, 150], [1, 1, 0, 0, 0], label=-1) == (
        [150, 50, 200, 100],
        -1,
    )
    assert moved([5, 5, 9, 9], [1, 1, 0, 0, 0], label=0) == ([0, 0, 0, 0], 0)
