"""Non-maximum suppression, of TensorFlow and without, against its definition."""

import keras
import numpy as np
import pytest

from keras_hybrid.models.detection.nms import class_offsets, non_max_suppression


@pytest.fixture(params=["tensorflow", "other"])
def suppress(request, monkeypatch):
    """`non_max_suppression`, also as other backends have it."""
    if request.param == "other":
        monkeypatch.setattr(keras.backend, "backend", lambda: "other")
    return non_max_suppression


def iou(box, other):
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    shared = np.prod(np.maximum(high - low, 0))
    return shared / (np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - shared)


def one_by_one(boxes, valid, count, threshold):
    """Takes the best that is left, and throws out what overlaps it."""
    left = [
        i for i in range(len(boxes)) if valid[i] and np.all(boxes[i, 2:] > boxes[i, :2])
    ]
    kept = []
    while left and len(kept) < count:
        best, *left = left
        kept.append(best)
        left = [i for i in left if iou(boxes[i], boxes[best]) <= threshold]
    return kept


def chosen(indices, kept):
    return [np.array(i)[np.array(k)].tolist() for i, k in zip(indices, kept)]


@pytest.mark.parametrize("threshold", [0.3, 0.7])
@pytest.mark.parametrize("count", [10, 190])
def test_it_is_greedy(suppress, count, threshold):
    random = np.random.default_rng(0)
    corners = random.uniform(0, 40, (3, 200, 2))
    boxes = np.concatenate([corners, corners + random.uniform(4, 16, (3, 200, 2))], -1)
    boxes[:, ::9, 3] = boxes[:, ::9, 1]  # without an area
    valid = random.uniform(size=(3, 200)) < 0.9
    boxes = boxes.astype("float32")
    indices, kept = suppress(boxes, valid, count, threshold)
    assert tuple(indices.shape) == tuple(kept.shape) == (3, count)
    expected = [one_by_one(b, v, count, threshold) for b, v in zip(boxes, valid)]
    assert chosen(indices, kept) == expected


def test_a_long_chain(suppress):
    """Each box overlaps the next: every other one goes, since the one before stays."""
    left = 4.0 * np.arange(101)
    boxes = np.stack([left, 0 * left, left + 10, 0 * left + 10], axis=-1)[None]
    indices, kept = suppress(boxes.astype("float32"), np.ones((1, 101), bool), 60, 0.4)
    assert chosen(indices, kept) == [list(range(0, 101, 2))]


@pytest.mark.parametrize(("valid", "expected"), [(True, [0, 1]), (False, [])])
def test_fewer_than_asked_for(suppress, valid, expected):
    boxes = np.array([[[0, 0, 4, 4], [0, 0, 9, 9]]], "float32")
    indices, kept = suppress(boxes, np.full((1, 2), valid), 5, 0.5)
    assert tuple(indices.shape) == tuple(kept.shape) == (1, 5)
    assert chosen(indices, kept) == [expected]
    assert not np.any(np.array(indices)[~np.array(kept)])


def test_classes_are_apart():
    boxes = np.array([[[0, 0, 9, 9], [0, 0, 9, 9], [1, 0, 9, 9]]], "float32")
    apart = class_offsets(boxes, np.array([[1, 2, 1]]))
    kept = chosen(*non_max_suppression(apart, np.ones((1, 3), bool), 3, 0.5))
    assert kept == [[0, 1]]
