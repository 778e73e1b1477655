"""Non-maximum suppression, with and without TensorFlow's op, against its definition."""

import keras
import numpy as np
import pytest

from keras_hybrid.models.detection.nms import class_offsets, non_max_suppression


@pytest.fixture(params=["tensorflow", "other"])
def suppress(request, monkeypatch):
    """`non_max_suppression` as on TensorFlow and as on other backends."""
    if request.param == "other":
        monkeypatch.setattr(keras.backend, "backend", lambda: "other")
    return non_max_suppression


def iou(box, other):
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    shared = np.prod(np.maximum(high - low, 0))
    return shared / (np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - shared)


def greedy(boxes, valid, count, threshold):
    """Repeatedly keep the best remaining box and drop those that overlap it."""
    left = [
        i for i in range(len(boxes)) if valid[i] and np.all(boxes[i, 2:] > boxes[i, :2])
    ]
    kept = []
    while left and len(kept) < count:
        best, *left = left
        kept.append(best)
        left = [i for i in left if iou(boxes[i], boxes[best]) <= threshold]
    return kept


def kept_indices(indices, kept):
    return [np.array(i)[np.array(k)].tolist() for i, k in zip(indices, kept)]


@pytest.mark.parametrize("threshold", [0.3, 0.7])
@pytest.mark.parametrize("count", [10, 190])
def test_suppression_equals_the_greedy_algorithm(suppress, count, threshold):
    random = np.random.default_rng(0)
    corners = random.uniform(0, 40, (3, 200, 2))
    boxes = np.concatenate([corners, corners + random.uniform(4, 16, (3, 200, 2))], -1)
    boxes[:, ::9, 3] = boxes[:, ::9, 1]  # boxes of zero area
    valid = random.uniform(size=(3, 200)) < 0.9
    boxes = boxes.astype("float32")
    indices, kept = suppress(boxes, valid, count, threshold)
    assert tuple(indices.shape) == tuple(kept.shape) == (3, count)
    expected = [greedy(b, v, count, threshold) for b, v in zip(boxes, valid)]
    assert kept_indices(indices, kept) == expected


def test_suppression_of_a_long_chain_of_boxes(suppress):
    """Each box overlaps the next, so every other box is suppressed."""
    left = 4.0 * np.arange(101)
    boxes = np.stack([left, 0 * left, left + 10, 0 * left + 10], axis=-1)[None]
    indices, kept = suppress(boxes.astype("float32"), np.ones((1, 101), bool), 60, 0.4)
    assert kept_indices(indices, kept) == [list(range(0, 101, 2))]


@pytest.mark.parametrize(("valid", "expected"), [(True, [0, 1]), (False, [])])
def test_fewer_boxes_than_requested_are_padded(suppress, valid, expected):
    boxes = np.array([[[0, 0, 4, 4], [0, 0, 9, 9]]], "float32")
    indices, kept = suppress(boxes, np.full((1, 2), valid), 5, 0.5)
    assert tuple(indices.shape) == tuple(kept.shape) == (1, 5)
    assert kept_indices(indices, kept) == [expected]
    assert not np.any(np.array(indices)[~np.array(kept)])


def test_class_offsets_separate_the_classes():
    boxes = np.array([[[0, 0, 9, 9], [0, 0, 9, 9], [1, 0, 9, 9]]], "float32")
    apart = class_offsets(boxes, np.array([[1, 2, 1]]))
    kept = kept_indices(*non_max_suppression(apart, np.ones((1, 3), bool), 3, 0.5))
    assert kept == [[0, 1]]
