"""Which images set the ranges of an int8 file, and that a wrong range is seen."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_hybrid.export import tflite, to_tflite
from keras_hybrid.export.calibration import calibration_images, with_full_range

RAW = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8, 3)).astype("float32")
PALE = 60 + RAW // 2  # 60 to 187
WAVY = 60.25 + RAW / 2  # likewise, and not whole


def student(scale=None, offset=0.0, activation="linear"):
    """The mean colour, behind a `Rescaling` where `scale` is given."""
    image = x = keras.Input((8, 8, 3), name="photo")
    if scale is not None:
        x = keras.layers.Rescaling(scale, offset)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Activation(activation)(x))


@pytest.mark.parametrize(
    "images",
    [
        RAW / 255,
        RAW * np.float32(1 / 255),
        np.where(RAW == 255, np.float32(1.0000001), RAW / 255),
        RAW / 250,
        RAW / 127.5,
        RAW // 128,  # whole numbers, 0 and 1
        RAW / 127.5 - 1,
        (RAW / 255 - 0.45) / 0.225,
        RAW - 128,
        RAW / 25.5,  # depth in metres
        np.rint(RAW / 3),  # in whole metres
        RAW / 1.3,  # 0 to 196
        np.log1p(RAW),
        257 * RAW,
        RAW + 1,
    ],
)
def test_other_images_set_the_range_alone(images):
    assert with_full_range(images, student()) is images
    assert with_full_range(images, student(1 / 80)) is images


@pytest.mark.parametrize(
    ("images", "network"),
    [
        (RAW, student()),
        (PALE, student()),
        (PALE.astype("uint8"), student()),
        (RAW - 0.4, student()),
        (RAW + 0.4, student()),
        (RAW // 4, student(1 / 255)),  # at night
        (WAVY, student(1 / 255)),
        (WAVY, student(1 / 127.5, -1)),
        (WAVY, student(1 / 128, -1)),
        (WAVY, student([1 / (255 * s) for s in (0.229, 0.224, 0.225)], [-2.1, -2, -1.8])),
        (WAVY, keras.Sequential([keras.Input((8, 8, 3)), student(1 / 255)])),
    ],
)
def test_raw_rgb_gets_black_and_white(images, network):
    before = images.copy()
    ranging = with_full_range(images, network)
    assert len(ranging) == len(images) + 1
    assert (ranging.min(), ranging.max()) == (0, 255)
    np.testing.assert_array_equal(ranging[:-1], np.clip(images, 0, 255))
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("network", [student(), student(1 / 80), student(1.0, -120.0)])
def test_one_sign_leaves_doubt(network):
    for images in (WAVY, RAW // 4):  # bright, and whole
        assert with_full_range(images, network) is images


def test_scaling_alone_leaves_doubt():
    images = RAW / 10
    assert with_full_range(images, student(1 / 255)) is images


def test_scale_of_the_input_is_that_of_the_images(tmp_path):
    # As a resize with antialiasing leaves 0..1.
    images = np.where(RAW == 255, np.float32(1.0000001), RAW / 255)[:, 0]
    report = to_tflite(
        student(), tmp_path / "s.tflite", quantization="int8", calibration_data=images
    )
    runner = Interpreter(report.filepath).get_signature_runner()
    scale, zero_point = runner.get_input_details()["image"]["quantization"]
    assert (scale, zero_point) == (pytest.approx(1 / 255, rel=1e-5), 0)
    scale, zero_point = runner.get_output_details()["output_0"]["quantization"]
    levels = np.rint(255 * images).astype("uint8")
    received = np.stack([runner(image=x[None])["output_0"][0] for x in levels])
    received = scale * (received.astype("float64") - zero_point)
    np.testing.assert_allclose(received, images.mean(axis=(1, 2)), atol=0.01)


@pytest.fixture(scope="module")
def coarse():
    """An int8 file in steps of 1, of a network for 0..1."""
    images = np.stack([0 * RAW[0], 0 * RAW[0] + 255])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tflite, "with_full_range", lambda images, student: images)
        network = student(activation="tanh")
        return tflite._convert(network, (1, 8, 8, 3), "int8", images)


def test_a_wrong_scale_of_the_input_is_seen(tmp_path, monkeypatch, coarse):
    def export(images):
        return to_tflite(
            student(activation="tanh"),
            tmp_path / "s.tflite",
            quantization="int8",
            calibration_data=images,
        )

    monkeypatch.setattr(tflite, "_convert", lambda *args: coarse)
    for images in (RAW / 255, RAW / 127.5, RAW / 25.5):
        with pytest.raises(RuntimeError, match=r"steps of 1 from 0 for images") as error:
            export(images[:, 0])
        assert "\n" not in str(error.value)
    # Nor is it what the file computes: 0.3 to 0.45 are all 0 to it.
    monkeypatch.setattr(tflite, "_require_input", lambda *args: None)
    with pytest.raises(RuntimeError, match="must reproduce the model"):
        export(0.3 + RAW[:, 0] / 1700)
    assert not list(tmp_path.iterdir())


def batches():
    for image in RAW:
        yield [image]


@pytest.mark.parametrize(
    "data",
    [
        batches,
        lambda: ({"image": image} for image in RAW),
        lambda: iter(RAW[:, 0]),
        lambda: tf.data.Dataset.from_tensor_slices(RAW),
        batches(),
        [({"photo": image, "id": 3}, 1) for image in RAW],
        [{"id": 3, "image": image, "label": 1} for image in RAW],
        [{"pixels": RAW[:, 0]}],
        tf.data.Dataset.from_tensor_slices({"image": RAW[:, 0], "label": range(6)}),
    ],
)
def test_elements_as_users_have_them(data):
    images = calibration_images(data, student().inputs[0])
    np.testing.assert_array_equal(images, RAW)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: iter([]), "`calibration_data` must hold images"),
        ([{"a": RAW[0], "b": RAW[0]}], r"'photo' or 'image'.*\['a', 'b'\]"),
        ([RAW[0], np.where(RAW[0] > 9, RAW[0], np.nan)], "finite.*in image 1"),
        ([()], r"element of shape \(0,\)"),
    ],
)
def test_refusals(data, message):
    with pytest.raises(ValueError, match=message):
        calibration_images(data, student().inputs[0])
