"""Dilated networks equal the original at the pixels that both have."""

import keras
import numpy as np
import pytest

import keras_hybrid
from keras_hybrid.models.segmentation.dilation import dilate, undilated_stages


def with_statistics(network, seed=0):
    """Random BatchNorm statistics, as after training."""
    rng = np.random.default_rng(seed)
    for weight in network.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.8, 1.2, weight.shape))
        elif weight.name in ("beta", "moving_mean"):
            weight.assign(rng.normal(0, 0.1, weight.shape))
    return network


def load(name, **kwargs):
    keras.utils.set_random_seed(0)
    return with_statistics(keras_hybrid.applications.load(name, weights=None, **kwargs))


IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 64, 128, 3)).astype("float32")


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["ResNet50", "ResNet50V2", "MobileNet", "MobileNetV2"])
def test_dilated_network_equals_the_original_at_common_pixels(
    name, output_stride, shallow
):
    network = load(name)
    expected = network(IMAGES)
    received = dilate(network, output_stride)(IMAGES)
    step = 32 // output_stride
    assert received.shape[1:3] == (64 // output_stride, 128 // output_stride)
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(received[:, ::step, ::step], expected, atol=tolerance)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_dilation_of_kernels_of_any_size(size, padding):
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, 2, padding="same")(image)
    x = keras.layers.SeparableConv2D(4, size, 2, padding=padding)(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    network = keras.Model(image, x)
    expected = network(IMAGES)
    received = dilate(network, 2)(IMAGES)[:, ::2, ::2]
    np.testing.assert_allclose(received, expected, atol=1e-3)


@pytest.mark.parametrize("name", ["ResNet50", "MobileNet"])
def test_a_dilated_network_can_be_dilated_further(name, shallow):
    """From stride 32 to 16 and then 8: rate 2 times 2 in the last stage."""
    network = load(name)
    dilated = dilate(dilate(network, 16), 8)
    expected = network(IMAGES)
    tolerance = 1e-4 * np.abs(expected).max()
    received = dilated(IMAGES)[:, ::4, ::4]
    np.testing.assert_allclose(received, expected, atol=tolerance)
    strides = [stage.stride for stage in undilated_stages(dilated)]
    assert strides == [2, 4, 8, 16, 32]


def test_existing_dilation_rates_are_multiplied():
    """After a removed stride of 2, rates (1, 2) become (2, 4) and 3 becomes 6."""
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, 2, padding="same")(image)
    x = keras.layers.Conv2D(4, 3, 2, padding="same")(x)
    x = keras.layers.Conv2D(4, 3, dilation_rate=(1, 2), padding="same", name="a")(x)
    x = keras.layers.SeparableConv2D(4, 3, dilation_rate=3, padding="same", name="b")(x)
    network = keras.Model(image, x)
    dilated = dilate(network, 2)
    assert dilated.get_layer("a").dilation_rate == (2, 4)
    assert dilated.get_layer("b").dilation_rate == (6, 6)
    received = dilated(IMAGES)[:, ::2, ::2]
    np.testing.assert_allclose(received, network(IMAGES), atol=1e-3)


@pytest.mark.parametrize("name", ["ResNet101", "VGG16"])
def test_dilating_to_the_same_stride_changes_nothing(name, shallow):
    network = load(name)
    np.testing.assert_array_equal(dilate(network, 32)(IMAGES), network(IMAGES))


def test_dilated_vgg16_equals_the_backbone_of_deeplab_v2():
    """Without pool4 and pool5, and with dilation 2 in conv5, at output stride 8."""
    network = dilate(load("VGG16"), 8)
    names = [layer.name for layer in network.layers]
    assert "block3_pool" in names
    assert not {"block4_pool", "block5_pool"} & set(names)
    rates = {
        layer.name: layer.dilation_rate
        for layer in network.layers
        if isinstance(layer, keras.layers.Conv2D)
    }
    assert rates["block4_conv3"] == (1, 1)
    assert {rates[f"block5_conv{i}"] for i in (1, 2, 3)} == {(2, 2)}


@pytest.fixture(scope="module")
def resnet101():
    return dilate(load("ResNet101"), 8)


def test_dilated_resnet101_equals_the_backbone_of_deeplab_v2(resnet101):
    """Dilation 2 in the fourth stage and 4 in the last stage."""
    for name, rate in (("conv3_block4", 1), ("conv4_block9", 2), ("conv5_block1", 4)):
        assert resnet101.get_layer(f"{name}_2_conv").dilation_rate == (rate, rate)


@pytest.mark.parametrize(
    "name", ["DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "MobileNetV3Small"]
)
def test_dilation_of_other_families(name, shallow):
    network = load(name, input_shape=(64, 96, 3))
    dilated = dilate(network, 8)
    assert dilated(IMAGES[:, :, :96]).shape == (2, 8, 12, network.output_shape[-1])
    for weight, copied in zip(network.weights, dilated.weights, strict=True):
        np.testing.assert_array_equal(weight, copied)


def test_a_nested_network_keeps_its_weights():
    base = load("MobileNet", alpha=0.25)
    image = keras.Input((64, 96, 3))
    network = keras.Model(image, base(image))
    images = IMAGES[:, :, :96]
    received = dilate(network, 8)(images)[:, ::4, ::4]
    np.testing.assert_allclose(received, network(images), atol=1e-4)


def test_a_stride_that_the_network_lacks_is_rejected():
    with pytest.raises(
        ValueError, match=r"one of \[1, 2, 4, 8, 16, 32\]. Received: .*=6"
    ):
        dilate(load("VGG16"), 6)


def test_undilated_stages_of_a_dilated_network(resnet101):
    stages = undilated_stages(resnet101)
    assert [(stage.stride, stage.layer_name) for stage in stages] == [
        (2, "conv1_relu"),
        (4, "conv2_block3_out"),
        (8, "conv3_block4_out"),
        (16, "conv4_block23_out"),
        (32, "conv5_block3_out"),
    ]


def test_undilated_stages_of_an_undilated_network():
    network = load("VGG16")
    assert undilated_stages(network) == keras_hybrid.find_stages(network)
