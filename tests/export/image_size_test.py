"""Students of any image size are given one, if they take it."""

import keras
import numpy as np
import pytest

import detectors
import tiny
from keras_hybrid.export.image_size import at_image_size
from keras_hybrid.models.segmentation.deeplab_v2 import deeplab_v2


def segmenter(size=(None, None)):
    image = keras.Input((*size, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(image)
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(x)
    return deeplab_v2(keras.Model(image, x), 3, output_stride=4, rates=(1, 2))


def heat_maps():
    image = keras.Input((None, None, 3))
    return keras.Model(image, keras.layers.Conv2D(5, 3, strides=4)(image))


@pytest.mark.parametrize(
    ("student", "size", "shape"),
    [
        (lambda: tiny.student(size=None), (37, 50), (None, 4)),
        (heat_maps, (37, 50), (None, 9, 12, 5)),
        (segmenter, (12, 20), (None, 12, 20, 3)),
        (lambda: segmenter((12, 18)), (12, 18), (None, 12, 18, 3)),
    ],
)
def test_outputs_at_a_size(student, size, shape):
    network = at_image_size(student(), size)
    assert network.input_shape == (None, *size, 3)
    assert network.output_shape == shape


def test_predicts_what_the_student_predicts():
    student = segmenter()
    images = np.random.default_rng(0).uniform(size=(2, 8, 12, 3)).astype("float32")
    received = at_image_size(student, (8, 12))(images)
    np.testing.assert_array_equal(received, student(images))


@pytest.mark.parametrize("student", [lambda: tiny.student(size=None), tiny.student])
def test_without_a_size_it_is_the_student(student):
    student = student()
    assert at_image_size(student) is student


def test_keeps_the_dtype_of_the_images():
    image = keras.Input((None, None, 3), dtype="uint8")
    student = keras.Model(image, keras.layers.Rescaling(1 / 255)(image))
    assert at_image_size(student, (5, 7)).input.dtype == "uint8"


def detector(size=None):
    backbone = detectors.backbone()
    if size:
        image = keras.Input((*size, 3))
        backbone = keras.models.clone_model(backbone, input_tensors=image)
    return detectors.FasterRCNN(
        backbone, feature_strides=(8,), anchor_heights=(24,), channels=4, units=4
    )


@pytest.mark.parametrize(("own", "size"), [(None, (32, 48)), ((36, 50), None)])
def test_a_detector_predicts_its_detections_alone(own, size):
    network = at_image_size(detector(own), size)
    assert network.input_shape == (1, *(size or own), 3)
    assert set(network.output) == {"boxes", "scores", "classes", "count"}


def skips():
    """Its maps do not meet again at odd sizes."""
    x = image = keras.Input((None, None, 3))
    y = keras.layers.UpSampling2D()(keras.layers.MaxPooling2D()(x))
    return keras.Model(image, keras.layers.Add()([x, y]))


@pytest.mark.parametrize(
    ("student", "size", "message"),
    [
        (
            tiny.student,
            (32, 33),
            r"must be those of the .*--width=33.*\(None, 32, 32, 3\)",
        ),
        (detector, None, r"must be given for a detector.*\(None, None, None, 3\)"),
        (detector, (32, 44), "must be multiples of 8, .*: --height=32 --width=44$"),
        (
            segmenter,
            (12, 33),
            "such as --height=32 --width=64. Received: --height=12 --width=33, for which "
            "it predicts a map of 12 x 36 pixels$",
        ),
        (skips, (7, 8), "images that MODEL takes.*--height=7 --width=8, for which Keras"),
    ],
)
def test_sizes_that_a_student_does_not_take(student, size, message):
    with pytest.raises(ValueError, match=message) as error:
        at_image_size(student(), size)
    assert "\n" not in str(error.value)
