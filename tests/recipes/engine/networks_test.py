"""Loading of teachers and students, and errors that name the flag."""

import types
import urllib.error

import keras
import numpy as np
import pytest
from keras.src.utils import file_utils

import torch_weights
from detectors import backbone
from keras_hybrid.models.detection.faster_rcnn import FasterRCNN
from keras_hybrid.recipes.engine import networks, students


def config(**changes):
    settings = {
        "data_dir": "photographs",
        "method": "hybrid",
        "plus": "",
        "teacher": "ResNet50",
        "teacher_preprocessing": "inside",
        "student": "VGG16",
        "student_backbone": "MobileNet",
        "student_weights": "imagenet",
    }
    return types.SimpleNamespace(**{**settings, **changes})


@pytest.mark.parametrize(
    ("load", "advice"),
    [
        (lambda: networks.teacher(config(), (64, 64)), "--teacher=FILE.keras"),
        (
            lambda: networks.teacher(config(method="kd"), None, classes=5),
            "--teacher=FILE",
        ),
        (lambda: networks.backbone(config(), "student"), "--student_weights=random, or"),
        (lambda: students.detector_backbone(config()), "--student_weights=random, or a "),
    ],
)
def test_a_failed_download_suggests_flags(load, advice, tmp_path, monkeypatch):
    def fail_to_download(*args, **kwargs):
        raise urllib.error.URLError("no\nnetwork")

    monkeypatch.setattr(file_utils, "urlretrieve", fail_to_download)
    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(tmp_path))
    with pytest.raises(ConnectionError, match="could not be downloaded") as error:
        load()
    assert f"Pass {advice}" in str(error.value)
    assert "weights=None" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda: networks.backbone(config(student="VGG"), "student"), "--student=VGG: "),
        (
            lambda: networks.teacher(config(teacher="a.h5"), None),
            "--teacher must be a network of Keras Applications, or a file that ends in "
            ".keras, .npz, .safetensors, .pth, .pt. Received: --teacher=a.h5",
        ),
        (
            lambda: networks.check(config(student_weights="Random")),
            "--student_weights must be imagenet, random or a weights file that exists",
        ),
    ],
)
def test_unknown_network_or_weights_names_are_rejected(load, message):
    with pytest.raises(ValueError, match=message):
        load()


def saved(folder, shape):
    image = keras.Input(batch_shape=shape)
    keras.Model(image, keras.layers.Identity()(image)).save(folder / "network.keras")
    return str(folder / "network.keras")


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((None, 64, 64, 3), networks.ANY_SIZE),
        ((None, 64, None, 3), networks.ANY_SIZE),
        ((None, 64, 64, 3), (64, 96)),
        ((4, None, None, 3), networks.ANY_SIZE),
        ((None, None, None, 1), networks.ANY_SIZE),
        ((None, None, None, 4), (64, 64)),
        ((None, 3, 64, 64), (64, 64)),
    ],
)
def test_a_network_file_for_other_image_shapes_is_rejected(shape, size, tmp_path):
    path = saved(tmp_path, shape)
    with pytest.raises(ValueError, match="--student must be a network of RGB") as error:
        networks.from_file("student", path, size)
    assert f"Received: --student={path}, which takes {shape}" in str(error.value)


@pytest.mark.parametrize("shape", [(None, 64, 96, 3), (None, None, None, 3)])
def test_a_network_file_that_fits_the_images_is_loaded(shape, tmp_path):
    network = networks.from_file("student", saved(tmp_path, shape), (64, 96))
    assert network.input_shape == shape


def test_a_network_file_without_image_input_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="--student=.*must have one input, images"):
        networks.from_file("student", saved(tmp_path, (None, 12)), (64, 96))


def test_a_detector_can_be_a_teacher_but_not_a_backbone(tmp_path):
    path = str(tmp_path / "detector.keras")
    small = backbone((4, 8, 8, 8, 8), 1 / 255)
    FasterRCNN(small, channels=8, units=16).save(path)
    assert isinstance(networks.teacher(config(teacher=path), None), FasterRCNN)
    scaled = config(teacher=path, teacher_preprocessing="caffe")
    with pytest.raises(ValueError, match="--teacher_preprocessing must be inside with"):
        networks.teacher(scaled, None)
    with pytest.raises(ValueError, match="--student_backbone must be a Functional"):
        students.detector_backbone(config(student_backbone=path))


@pytest.mark.parametrize("name", ["MobileNet", "resnet.pth"])
def test_preprocessing_belongs_to_keras_files(name):
    scaled = config(teacher=name, teacher_preprocessing="tf")
    rule = f"--teacher_preprocessing must be inside with {name}, whose"
    with pytest.raises(ValueError, match=rule):
        networks.teacher(scaled, None)


def test_weights_of_pytorch_make_students_of_every_recipe(tmp_path):
    path = str(tmp_path / "mobilenet_v2.npz")
    np.savez(path, **torch_weights.mobilenet_v2())
    segmenter = students.segmenter(config(student=path, output_stride=8, multiple=32), 5)
    assert segmenter(np.zeros((1, 64, 32, 3))).shape == (1, 64, 32, 5)
    backbone = students.detector_backbone(config(student_backbone=path))
    detector = FasterRCNN(backbone, feature_strides=(8, 16, 32), channels=8, units=16)
    first = "features.0.0.weight"
    for network in (segmenter, detector.backbone):
        kernels = [w for w in network.weights if w.path.endswith("features_0_0/kernel")]
        expected = torch_weights.mobilenet_v2()[first].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(kernels[0], expected)
