"""Detections in pixels of the original images, and their miss rates."""

import types

import numpy as np
import pytest

from keras_hybrid.metrics import Subset
from keras_hybrid.models.detection import evaluation


@pytest.fixture
def built_sizes(monkeypatch):
    """Sizes of the built_sizes built, which detect the left half of every image."""
    made = []

    def with_detections(student, height, width):
        del student
        made.append((height, width))
        box = [[[0, 0, width / 2, height], [0, 0, 0, 0]]]
        found = {"boxes": np.array(box), "scores": np.array([[0.5, 0.0]])}
        return types.SimpleNamespace(predict_on_batch=lambda images: found)

    monkeypatch.setattr(evaluation, "with_detections", with_detections)
    return made


def batch(index, height, width, scale):
    truth = {"index": np.array([index]), "scale": np.array([scale])}
    return np.zeros((1, height, width, 3), "float32"), truth


def test_detections_are_in_pixels_of_the_original_images(built_sizes):
    batches = [
        batch(0, 32, 64, (2, 4)),
        batch(1, 32, 64, (1, 1)),
        batch(2, 64, 64, (1, 1)),
    ]
    found = evaluation.detections_of(None, batches, 3)
    assert [one["image_id"] for one in found] == [0, 1, 2]
    # 32 x 32 pixels of an image that was enlarged by factors of 2 and 4.
    assert [one["bbox"] for one in found[:2]] == [[0, 0, 16, 8], [0, 0, 32, 32]]
    assert found[0]["score"] == 0.5
    assert built_sizes == [(32, 64), (64, 64)]


def test_miss_rates_are_those_of_the_given_ids():
    people = {"category_id": 7, "bbox": [0, 0, 20, 60], "vis_ratio": 1.0}
    source = types.SimpleNamespace(
        category_id=7,
        ground_truth=lambda: {
            "images": [{"id": "a"}, {"id": "b"}],
            "annotations": [{"image_id": name, **people} for name in "ab"],
        },
        with_given_ids=lambda found: [
            {**one, "image_id": "ab"[one["image_id"]], "category_id": 7} for one in found
        ],
    )
    found = [{"image_id": 1, "bbox": [0, 0, 20, 60], "score": 0.9}]
    subsets = {"reasonable": "reasonable", "giants": Subset((500, 900))}
    rates, curves = evaluation.miss_rates(source, found, subsets)
    # One of two people is found without a false positive; none is a giant.
    assert rates == {"reasonable": 50.0, "giants": None}
    assert curves["reasonable"].miss_rate.tolist() == [0.5]
