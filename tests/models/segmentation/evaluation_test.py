"""Evaluation on whole images of several sizes, with classes that do not occur."""

import keras
import numpy as np
import pytest

from keras_hybrid.models.segmentation.evaluation import label_maps_of, mean_iou

CLASSES = "sky", "road", "car"


@pytest.fixture
def student():
    """A segmenter that predicts class i where channel i is the largest."""
    image = keras.Input((None, None, 3))
    return keras.Model(image, keras.layers.Rescaling(2.0)(image))


def image_of(labels):
    return np.eye(3, dtype="float32")[np.array(labels)][None]


def test_label_maps_of_images_of_each_size(student):
    predict = label_maps_of(student)
    for labels in ([[0, 1, 2]], [[2, 2], [0, 1]]):
        np.testing.assert_array_equal(predict(image_of(labels)), [labels])


def test_mean_iou_in_percent_per_class(student):
    batches = [
        (image_of([[0, 0, 0, 0]]), np.array([[[0, 0, 1, 255]]], "uint8")),
        (image_of([[0, 0]]), np.array([[[0, 0]]], "uint8")),
    ]
    # Sky: 4 of 5 pixels. Road: 0 of 1. No car occurs, and none is predicted.
    expected = {"miou": 40.0, "iou": {"sky": 80.0, "road": 0.0, "car": None}}
    assert mean_iou(label_maps_of(student), batches, 2, CLASSES) == expected
