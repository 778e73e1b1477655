"""Assignment of labels to boxes, and sampling of boxes for the loss."""

import keras
import numpy as np

from keras_hybrid.models.detection.targets import assign, sample

_SQUARE = [0.0, 0, 10, 10]


def assigned(boxes, truth, labels, low=0.3, high=0.7, **kwargs):
    targets = assign(
        np.array(boxes, "float32"),
        np.array([truth], "float32"),
        np.array([labels]),
        foreground_iou=high,
        background_iou=low,
        **kwargs,
    )
    return np.array(targets.labels)[0].tolist(), np.array(targets.boxes)[0].tolist()


def test_labels_follow_the_overlap():
    """The IoUs with the square are 1, 2/3, 1/3, 1/4 and 0."""
    boxes = [_SQUARE, [0, 2, 10, 12], [0, 5, 10, 15], [0, 6, 10, 16], [50, 50, 60, 60]]
    labels, matched = assigned(boxes, [_SQUARE], [3])
    assert labels == [3, -1, -1, 0, 0]
    assert matched[0] == _SQUARE


def test_thresholds_are_inclusive():
    labels, _ = assigned([[0, 0, 10, 5]], [_SQUARE], [1], low=0.5, high=0.5)
    assert labels == [1]
    labels, _ = assigned([[0, 0, 10, 4]], [_SQUARE], [1], low=0.4, high=0.5)
    assert labels == [-1]


def test_each_box_is_matched_to_the_ground_truth_it_overlaps_most():
    truth = [[0, 0, 10, 10], [0, 4, 10, 14]]
    labels, matched = assigned([[0, 3, 10, 13], [0, 1, 10, 11]], truth, [1, 2])
    assert labels == [2, 1]
    assert matched == [truth[1], truth[0]]


def test_best_boxes_of_a_ground_truth_are_kept_with_ties():
    """No IoU reaches 0.7; the best for the first ground truth is 1/3, of two boxes."""
    boxes = [[0, 5, 10, 15], [0, -5, 10, 5], [0, 8, 10, 18], [90, 90, 95, 95]]
    truth = [_SQUARE, [200, 200, 210, 210]]
    assert assigned(boxes, truth, [1, 1])[0] == [-1, -1, 0, 0]
    # No box overlaps the second ground truth, which therefore has no best box.
    assert assigned(boxes, truth, [1, 1], keep_best=True)[0] == [1, 1, 0, 0]


def test_background_in_ignore_regions_is_ignored():
    region = [0, 0, 100, 100]
    boxes = [[0, 0, 10, 10], [95, 0, 105, 10], [96, 0, 106, 10], [200, 0, 210, 10]]
    assert assigned(boxes, [region], [-1])[0] == [-1, -1, 0, 0]
    # An object within a region stays an object; no box is matched to a region.
    labels, matched = assigned(boxes, [region, _SQUARE], [-1, 1], keep_best=True)
    assert labels == [1, -1, 0, 0]
    assert matched[0] == _SQUARE


def test_padding_is_not_ground_truth():
    """All boxes are background, even those at the coordinates of the padding."""
    boxes = [[0, 0, 0, 0], [0, 0, 1, 1], _SQUARE]
    padding = [[0, 0, 0, 0], [0, 0, 0, 0]]
    assert assigned(boxes, padding, [0, 0], keep_best=True)[0] == [0, 0, 0]


def test_boxes_per_image():
    boxes = np.array([[_SQUARE, [20, 20, 30, 30]], [[20, 20, 30, 30], _SQUARE]])
    targets = assign(
        boxes,
        np.array([[_SQUARE], [_SQUARE]]),
        np.array([[1], [2]]),
        foreground_iou=0.5,
        background_iou=0.5,
    )
    np.testing.assert_array_equal(targets.labels, [[1, 0], [0, 2]])


def sampled_indices(labels, count, fraction, seed=0):
    indices, sampled = sample(
        np.array(labels), count, fraction, keras.random.SeedGenerator(seed)
    )
    indices, sampled = np.array(indices), np.array(sampled)
    return [row[mask].tolist() for row, mask in zip(indices, sampled)]


def test_sample_has_at_most_the_positive_fraction_of_objects():
    labels = [[1] * 50 + [0] * 100 + [-1] * 50]
    (indices,) = sampled_indices(labels, 20, 0.25)
    assert len(set(indices)) == 20
    assert sum(index < 50 for index in indices) == 5
    assert all(index < 150 for index in indices)
    assert sampled_indices(labels, 20, 0.25, seed=1) != [indices]


def test_background_fills_the_sample_when_objects_are_few():
    (indices,) = sampled_indices([[0] * 100 + [2] * 3 + [-1] * 9], 40, 0.5)
    assert len(set(indices)) == 40
    assert {100, 101, 102} < set(indices)


def test_sample_of_few_or_no_boxes():
    labels = [[1, 0, -1, -1], [-1, -1, -1, -1], [1, 1, 1, 1]]
    few, nothing, objects = sampled_indices(labels, 4, 0.5)
    assert sorted(few) == [0, 1]
    assert nothing == []
    assert len(objects) == 2
    assert sampled_indices([[0]], 4, 0.5) == [[0]]


def test_every_box_can_be_sampled():
    seed = keras.random.SeedGenerator(0)
    labels = np.array([[1, 1, 1, 0, 0, 0]])
    seen = set()
    for _ in range(50):
        indices, sampled = sample(labels, 2, 0.5, seed)
        seen.update(np.array(indices)[np.array(sampled)].tolist())
    assert seen == {0, 1, 2, 3, 4, 5}
