"""Which weights become float16, and that nothing else changes."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from keras_hybrid.export import to_tflite

IMAGES = np.random.default_rng(0).uniform(0, 1, (4, 6, 6, 3)).astype("float32")


def network():
    """108, 36 and 14400 weights: the first two are a hundredth of all."""
    image = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="small")(image)
    x = keras.layers.DepthwiseConv2D(3, padding="same", name="tiny")(x)
    x = keras.layers.Dense(100, name="large")(keras.layers.Flatten()(x))
    return keras.Model(image, x)


def filters(path):
    """(number of weights, dtype) of the constants with two or more axes."""
    details = Interpreter(str(path)).get_tensor_details()
    kernels = [d for d in details if len(d["shape"]) > 1 and "image" not in d["name"]]
    return {(int(np.prod(d["shape"])), d["dtype"].__name__) for d in kernels}


def test_the_smallest_stay_in_float32(tmp_path):
    to_tflite(network(), tmp_path / "half.tflite", quantization="float16")
    found = filters(tmp_path / "half.tflite")
    assert {(108, "float32"), (36, "float32"), (14400, "float16")} <= found
    assert not {(108, "float16"), (36, "float16")} & found


def test_computes_what_the_rounded_weights_make(tmp_path):
    student = network()
    to_tflite(student, tmp_path / "half.tflite", quantization="float16")
    kernel = student.get_layer("large").kernel
    kernel.assign(kernel.numpy().astype("float16").astype("float32"))
    runner = Interpreter(str(tmp_path / "half.tflite")).get_signature_runner()
    received = [runner(image=image[None])["output_0"][0] for image in IMAGES]
    np.testing.assert_allclose(received, student(IMAGES), atol=1e-6)


@pytest.mark.parametrize(("scale", "halved"), [(1e-3, True), (5e-3, False)])
def test_a_filter_whose_rounding_shows_stays_in_float32(scale, halved, tmp_path):
    # A tenth of the weights. Each pair of them cancels, up to what rounding does to it.
    image = keras.Input((6, 6, 3))
    doubled = keras.layers.Concatenate()([image, image])
    x = keras.layers.Conv2D(4, 8, padding="same", use_bias=False)(doubled)
    x = keras.layers.Dense(96, name="large")(keras.layers.Flatten()(x))
    x = keras.layers.Activation("sigmoid")(x)
    student = keras.Model(image, x)
    half = scale * np.random.default_rng(0).uniform(1, 2, (8, 8, 3, 4))
    first = half.astype("float16").astype("float32")
    student.layers[2].kernel.assign(np.concatenate([first, 1e-4 - first], axis=2))
    to_tflite(student, tmp_path / "s.tflite", quantization="float16")
    found = filters(tmp_path / "s.tflite")
    assert ((1536, "float16") in found) == halved
    assert (13824, "float16") in found


@pytest.mark.parametrize(
    ("scale", "fits"),
    [
        (1.0, True),
        (1e6, False),  # beyond 65504
        (1e-6, False),  # float16's steps are of 6e-8 there
        (1e-9, False),  # all are 0
    ],
)
def test_a_folded_filter_that_float16_cannot_hold(tmp_path, scale, fits):
    image = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(12, 3, use_bias=False)(image)
    x = keras.layers.Conv2D(40, 3, use_bias=False)(x)  # the largest, last to stay
    statistics = keras.layers.BatchNormalization(epsilon=0.0)
    x = keras.layers.ReLU()(statistics(x))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / scale)(x))
    student = keras.Model(image, keras.layers.Dense(40)(x))
    statistics.moving_variance.assign([1 / scale**2] * 40)  # the filter times `scale`
    path = tmp_path / "s.tflite"
    to_tflite(student, path, quantization="float16", calibration_data=IMAGES)
    found = filters(path)
    assert ((4320, "float16") in found) == fits
    assert (1600, "float16") in found
    runner = Interpreter(str(path)).get_signature_runner()
    received = [runner(image=image[None])["output_0"][0] for image in IMAGES]
    np.testing.assert_allclose(received, student(IMAGES), atol=1e-3)


def test_is_about_half_the_size(tmp_path):
    whole = to_tflite(network(), tmp_path / "whole.tflite")
    half = to_tflite(network(), tmp_path / "half.tflite", quantization="float16")
    assert whole.size_bytes - half.size_bytes > 2 * 14400 - 500
    assert "DEQUANTIZE" in half.ops
