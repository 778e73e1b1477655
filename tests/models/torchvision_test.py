"""torchvision's networks against plain NumPy, and loading of their weights."""

import keras
import numpy as np
import pytest

import torch_weights
from keras_hybrid import find_stages
from keras_hybrid.models import torchvision


def convolution(x, kernel, stride=1):
    """Of maps (C, H, W) with kernels (O, C, h, w), or (O, 1, h, w) if depthwise."""
    kernel = kernel.astype("float64")
    size = kernel.shape[-1]
    pad = size // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:])
    out = 0
    for i in range(size):
        for j in range(size):
            part = x[:, i::stride, j::stride][:, :rows, :columns]
            if kernel.shape[1] == 1 < len(x):
                out = out + kernel[:, 0, i, j, None, None] * part
            else:
                out = out + np.einsum("oc,chw->ohw", kernel[:, :, i, j], part)
    return out


def norm(x, weights, name, epsilon=1e-5):
    w, b, mean, var = (
        weights[f"{name}.{key}"][:, None, None].astype("float64")
        for key in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + epsilon) * w + b


def max_pool(x):
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    rows, columns = ((n - 3) // 2 + 1 for n in x.shape[1:])
    shifted = [x[:, i::2, j::2][:, :rows, :columns] for i in range(3) for j in range(3)]
    return np.max(shifted, axis=0)


def resnet(weights, x, blocks, bottleneck):
    x = convolution(x, weights["conv1.weight"], 2)
    x = max_pool(np.maximum(norm(x, weights, "bn1"), 0))
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            name, y = f"layer{stage}.{block}", x
            stride = 2 if stage > 1 and block == 0 else 1
            for i in (1, 2, 3) if bottleneck else (1, 2):
                kernel = weights[f"{name}.conv{i}.weight"]
                step = stride if i == (2 if bottleneck else 1) else 1
                y = convolution(y if i == 1 else np.maximum(y, 0), kernel, step)
                y = norm(y, weights, f"{name}.bn{i}")
            if f"{name}.downsample.0.weight" in weights:
                x = convolution(x, weights[f"{name}.downsample.0.weight"], stride)
                x = norm(x, weights, f"{name}.downsample.1")
            x = np.maximum(x + y, 0)
    return x


def mobilenet_v2(weights, x):
    def layer(x, key, norm_key, stride=1, activates=True):
        x = convolution(x, weights[f"{key}.weight"], stride)
        x = norm(x, weights, norm_key)
        return np.clip(x, 0, 6) if activates else x

    x = layer(x, "features.0.0", "features.0.1", 2)
    # Expansion, channels, blocks and stride (Sandler et al. 2018, Table 2).
    table = (1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1)
    number = 0
    for expansion, count, first_stride in table:
        for block in range(count):
            number += 1
            stride = first_stride if block == 0 else 1
            name, y = f"features.{number}.conv", x
            if expansion > 1:
                y = layer(y, f"{name}.0.0", f"{name}.0.1")
                y = layer(y, f"{name}.1.0", f"{name}.1.1", stride)
                y = layer(y, f"{name}.2", f"{name}.3", activates=False)
            else:
                y = layer(y, f"{name}.0.0", f"{name}.0.1", stride)
                y = layer(y, f"{name}.1", f"{name}.2", activates=False)
            x = x + y if block > 0 else y
    return layer(x, "features.18.0", "features.18.1")


def saved(weights, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **weights)
    return path


def raw_rgb(size):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (1, *size, 3)).astype("float32")


def normalised(images):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return ((images[0].astype("float64") / 255 - mean) / std).transpose(2, 0, 1)


def assert_agrees(network, reference, size):
    images = raw_rgb(size)
    expected = reference(normalised(images))
    found = np.array(network(images))[0].transpose(2, 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_a_file_of_two_networks_is_rejected(tmp_path):
    weights = {"features.1.conv.0.0.weight": np.zeros((32, 1, 3, 3), "float32")}
    both = {f"{name}.{k}": w for name in ("one", "other") for k, w in weights.items()}
    with pytest.raises(ValueError, match="one MobileNetV2. Received: 2, .* one., other."):
        torchvision.load(saved(both, tmp_path))


RESNETS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
}


@pytest.mark.parametrize(
    ("depth", "prefix"),
    [(18, ""), (34, "module.backbone."), (50, "module.backbone."), (101, "")],
)
def test_resnets_agree_with_numpy(depth, prefix, tmp_path):
    blocks, bottleneck = RESNETS[depth]
    weights = torch_weights.state_dict(blocks=blocks, bottleneck=bottleneck)
    renamed = {prefix + key: value for key, value in weights.items()}
    network = torchvision.load(saved(renamed, tmp_path))
    size = (75, 53) if prefix else (64, 96)
    assert_agrees(network, lambda x: resnet(weights, x, blocks, bottleneck), size)
    assert [s.stride for s in find_stages(network)] == [2, 4, 8, 16, 32]


@pytest.mark.parametrize("size", [(64, 96), (75, 53)])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_mobilenet_v2_agrees_with_numpy(size, prefix, tmp_path):
    keras.config.set_dtype_policy("float64")  # 53 layers amplify rounding to 4e-5
    weights = torch_weights.mobilenet_v2()
    renamed = {prefix + key: value for key, value in weights.items()}
    network = torchvision.load(saved(renamed, tmp_path))
    assert_agrees(network, lambda x: mobilenet_v2(weights, x), size)
    assert [s.stride for s in find_stages(network)] == [2, 4, 8, 16, 32]


def test_the_epsilon_can_be_given(tmp_path):
    network = torchvision.load(saved(torch_weights.mobilenet_v2(), tmp_path), 1e-3)
    assert network.get_layer("features_0_1").epsilon == 1e-3


def test_the_epsilon_of_the_file(tmp_path):
    weights = {**torch_weights.mobilenet_v2(), "batch_norm_epsilon": np.float64(1e-2)}
    network = torchvision.load(saved(weights, tmp_path))
    assert network.get_layer("features_0_1").epsilon == 1e-2
    network = torchvision.load(tmp_path / "weights.npz", 1e-3)
    assert network.get_layer("features_0_1").epsilon == 1e-3


def test_weights_that_do_not_fit_are_named(tmp_path):
    weights = torch_weights.mobilenet_v2()
    del weights["features.7.conv.3.running_var"]
    with pytest.raises(ValueError, match="'features.7.conv.3.running_var' of a Mobile"):
        torchvision.load(saved(weights, tmp_path))
    weights = torch_weights.mobilenet_v2()
    weights["features.7.conv.2.weight"] = np.zeros((5, 7, 1, 1), "float32")
    with pytest.raises(ValueError, match="'features.7.conv.2.weight' must hold floats"):
        torchvision.load(saved(weights, tmp_path))
    with pytest.raises(ValueError, match="must have the key 'conv1.weight' of a ResNet"):
        torchvision.load(saved({"fc.weight": np.zeros(3)}, tmp_path))
    with pytest.raises(FileNotFoundError):
        torchvision.load(tmp_path / "missing.npz")
