import itertools

import numpy as np
import pytest

from keras_hybrid.data import streets


def test_crops_have_balanced_classes():
    images, labels = streets.crops(2 * len(streets.CLASSES), size=24)
    assert images.shape == (16, 24, 24, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert np.bincount(labels).tolist() == [2] * 8
    assert images.std(axis=(1, 2, 3)).min() > 5  # no crop is uniform


@pytest.mark.parametrize("count", [0, 1, 9])
def test_crops_do_not_depend_on_their_count(count):
    images, labels = streets.crops(count, seed=4)
    more, more_labels = streets.crops(12, seed=4)
    np.testing.assert_array_equal(images, more[:count])
    np.testing.assert_array_equal(labels, more_labels[:count])


def test_crops_differ_between_seeds_and_domains():
    day, _ = streets.crops(16, seed=0)
    other, _ = streets.crops(16, seed=1)
    dusk, _ = streets.crops(16, seed=0, domain="dusk")
    assert all((a != b).mean() > 0.5 for a, b in zip(day, other))
    assert dusk.mean() < 0.75 * day.mean()


def test_crops_of_odd_size():
    images, _ = streets.crops(8, size=33)
    assert images.shape == (8, 33, 33, 3)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("count", -1), ("size", 7), ("size", 32.0), ("domain", "rain")],
)
def test_invalid_arguments_of_crops(argument, value):
    arguments = {"count": 1, argument: value}
    with pytest.raises(
        ValueError, match=f"`{argument}` must be .* Received: {argument}="
    ):
        streets.crops(**arguments)


SCENES = [streets.scene(i, size=(96, 192)) for i in range(12)]


def corners(boxes):
    return boxes[:, :2], boxes[:, :2] + boxes[:, 2:]


def test_scenes_have_all_annotations():
    for street in SCENES:
        count = len(street.classes)
        assert street.image.shape == (96, 192, 3)
        assert street.image.dtype == street.label_map.dtype == np.uint8
        assert street.label_map.shape == (96, 192)
        assert street.boxes.shape == street.visible_boxes.shape == (count, 4)
        assert street.keypoints.shape == (count, 17, 3)
    labels = np.concatenate([street.label_map.ravel() for street in SCENES])
    assert set(labels) == set(range(len(streets.LABELS)))
    classes = np.concatenate([street.classes for street in SCENES])
    assert set(classes) == set(range(len(streets.THINGS)))


def test_scenes_are_deterministic():
    again = streets.scene(3, size=(96, 192))
    np.testing.assert_array_equal(again.image, SCENES[3].image)
    np.testing.assert_array_equal(again.keypoints, SCENES[3].keypoints)
    for a, b in itertools.combinations(SCENES, 2):
        assert (a.image != b.image).mean() > 0.5


def test_dusk_scenes_are_darker():
    dusk = [streets.scene(i, size=(96, 192), domain="dusk") for i in range(12)]
    mean = np.mean([street.image.mean() for street in dusk])
    assert mean < 0.75 * np.mean([street.image.mean() for street in SCENES])
    assert max(street.image.max() for street in dusk) > 200  # lamps


def test_visible_boxes_lie_inside_boxes_and_the_image():
    occluded = 0
    for street in SCENES:
        (whole_from, whole_to), (from_, to) = map(
            corners, (street.boxes, street.visible_boxes)
        )
        assert (from_ >= whole_from - 1.5).all()
        assert (to <= whole_to + 1.5).all()
        assert (from_ >= 0).all()
        assert (to <= (192, 96)).all()
        area, visible = (b[:, 2] * b[:, 3] for b in (street.boxes, street.visible_boxes))
        occluded += np.sum(visible < 0.65 * area)
    assert occluded > 5


def test_boxes_agree_with_the_label_map():
    for street in SCENES:
        for name in streets.THINGS:
            mask = np.zeros((96, 192), bool)
            own = street.classes == streets.THINGS.index(name)
            for left, top, width, height in street.visible_boxes[own].astype(int):
                box = np.s_[top : top + height, left : left + width]
                assert (street.label_map[box] == streets.LABELS.index(name)).any()
                mask[box] = True
            assert mask[street.label_map == streets.LABELS.index(name)].all()


def test_keypoints_lie_on_the_body():
    people = ("pedestrian", "rider")
    seen = 0
    for street in SCENES:
        for name, box, joints in zip(street.classes, street.boxes, street.keypoints):
            x, y, visible = joints.T
            assert set(visible) <= {0, 1, 2}
            if streets.THINGS[name] not in people:
                assert not joints.any()
                continue
            known, (left, top, width, height) = visible > 0, box
            assert (x[known] >= left - 1).all()
            assert (x[known] <= left + width + 1).all()
            assert (y[known] >= top - 1).all()
            assert (y[known] <= top + height + 1).all()
            for i, j in zip(x[visible == 2].astype(int), y[visible == 2].astype(int)):
                assert streets.LABELS[street.label_map[j, i]] == streets.THINGS[name]
            seen += np.count_nonzero(visible == 2)
            nose, hip, ankle = (
                streets.KEYPOINTS.index(n) for n in ("nose", "left_hip", "left_ankle")
            )
            if known[[nose, hip, ankle]].all():
                assert y[nose] < y[hip] < y[ankle]
    assert seen > 100


@pytest.mark.parametrize(
    ("argument", "value"),
    [("index", -1), ("size", 128), ("size", (20, 256)), ("seed", 0.5), ("domain", "fog")],
)
def test_invalid_arguments_of_scene(argument, value):
    arguments = {"index": 0, argument: value}
    with pytest.raises(
        ValueError, match=f"`{argument}` must be .* Received: {argument}="
    ):
        streets.scene(**arguments)
