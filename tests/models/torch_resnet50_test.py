"""ResNet-50 version 1.5 against plain NumPy, and loading of its weights."""

import json

import numpy as np
import pytest
from keras import layers

from keras_hybrid import find_stages
from keras_hybrid.models.state_dict import EPSILON_KEY, read_state_dict
from keras_hybrid.models.torch_resnet50 import (
    assign_state_dict,
    load_resnet50,
    resnet50,
)
from torch_weights import WIDTHS, openpifpaf, state_dict


def reference(weights, image, max_pool=True, epsilon=1e-5):
    """Forward pass of torchvision's network: arrays (C, H, W), loops over the kernel."""

    def convolution(x, name, stride=1):
        kernel = weights[f"{name}.weight"].astype("float64")
        size = kernel.shape[-1]
        pad = size // 2
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        rows, columns = ((n - size) // stride + 1 for n in x.shape[1:])
        out = 0
        for i in range(size):
            for j in range(size):
                part = x[:, i::stride, j::stride][:, :rows, :columns]
                out = out + np.einsum("oc,chw->ohw", kernel[:, :, i, j], part)
        return out

    def norm(x, name):
        w, b, mean, var = (
            weights[f"{name}.{key}"][:, None, None].astype("float64")
            for key in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + epsilon) * w + b

    def relu(x):
        return np.maximum(x, 0)

    x = relu(norm(convolution(image, "conv1", 2), "bn1"))
    if max_pool:
        x = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        rows, columns = ((n - 3) // 2 + 1 for n in x.shape[1:])
        x = np.max(
            [x[:, i::2, j::2][:, :rows, :columns] for i in range(3) for j in range(3)],
            axis=0,
        )
    for stage, count in enumerate((3, 4, 6, 3), start=1):
        for block in range(count):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = relu(norm(convolution(x, f"{name}.conv1"), f"{name}.bn1"))
            y = relu(norm(convolution(y, f"{name}.conv2", stride), f"{name}.bn2"))
            y = norm(convolution(y, f"{name}.conv3"), f"{name}.bn3")
            if block == 0:
                x = convolution(x, f"{name}.downsample.0", stride)
                x = norm(x, f"{name}.downsample.1")
            x = relu(x + y)
    return x


def images(height=64, width=96):
    shape = (1, height, width, 3)
    return np.random.default_rng(1).normal(size=shape).astype("float32")


@pytest.mark.parametrize("size", [(64, 96), (75, 53)])
@pytest.mark.parametrize(("max_pool", "epsilon"), [(True, 1e-5), (False, 1e-3)])
def test_resnet50_agrees_with_numpy(size, max_pool, epsilon):
    """Also at sizes where padding matters, and with OpenPifPaf's changes."""
    weights = state_dict()
    network = resnet50(max_pool, epsilon, WIDTHS)
    unused = assign_state_dict(network, weights, "file")
    assert unused == ["fc.weight", "fc.bias"]
    image = images(*size)
    expected = reference(weights, image[0].transpose(2, 0, 1), max_pool, epsilon)
    got = np.array(network(image))[0].transpose(2, 0, 1)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_strides_with_and_without_max_pooling():
    assert [s.stride for s in find_stages(resnet50(widths=WIDTHS))] == [2, 4, 8, 16, 32]
    pose = resnet50(max_pool=False, widths=WIDTHS)
    assert [s.stride for s in find_stages(pose)] == [2, 4, 8, 16]


@pytest.mark.parametrize(("blocks", "depth"), [((3, 4, 6, 3), 50), ((2, 2, 2, 2), 26)])
def test_depth_counts_convolutions_and_the_classifier_without_shortcuts(blocks, depth):
    network = resnet50(widths=(2, 2, 2, 2), blocks=blocks)
    convolutions = [x.name for x in network.layers if isinstance(x, layers.Conv2D)]
    shortcuts = [name for name in convolutions if "downsample" in name]
    assert len(convolutions) - len(shortcuts) + 1 == depth
    assert len(shortcuts) == 4
    assert network.name == f"resnet{depth}_v1_5"
    assert [s.stride for s in find_stages(network)] == [2, 4, 8, 16, 32]


@pytest.mark.parametrize("newer", [True, False])
def test_old_and_new_openpifpaf_names(newer):
    weights = state_dict()
    network, pose = resnet50(widths=WIDTHS), resnet50(widths=WIDTHS)
    assign_state_dict(network, weights, "file")
    unused = assign_state_dict(pose, openpifpaf(weights, newer), "file")
    assert unused == ["head_nets.0.conv.weight"]
    np.testing.assert_array_equal(pose(images()), network(images()))


def test_state_dict_keys_with_a_prefix():
    """Prefixes as of `DataParallel` or a detector's backbone; heads are unused."""
    network = resnet50(widths=WIDTHS)
    head = {"head.layer1.weight": np.zeros(3, "float32")}
    prefixes = "module.", "backbone.", "model.", "module.encoder."
    for seed, prefix in enumerate(prefixes):
        weights = state_dict(seed=seed)
        renamed = {prefix + key: value for key, value in weights.items()}
        unused = assign_state_dict(network, {**head, **renamed}, "file")
        assert unused == [*head, f"{prefix}fc.weight", f"{prefix}fc.bias"]
        gamma = network.get_layer("layer4_2_bn3").gamma
        np.testing.assert_array_equal(gamma, weights["layer4.2.bn3.weight"])
        weights = state_dict(seed=seed + 10)
        pose = {prefix + key: value for key, value in openpifpaf(weights).items()}
        assign_state_dict(network, pose, "file")
        np.testing.assert_array_equal(gamma, weights["layer4.2.bn3.weight"])


def test_state_dicts_of_other_networks_are_rejected():
    network = resnet50(widths=WIDTHS)
    weights = state_dict()
    twins = {
        f"{name}.{k}": v for name in ("student", "teacher") for k, v in weights.items()
    }
    with pytest.raises(ValueError, match=r"one ResNet-50.*2.* student\., teacher\."):
        assign_state_dict(network, twins, "file")
    deeper = {**weights, "layer3.6.conv1.weight": weights["layer3.5.conv1.weight"]}
    with pytest.raises(ValueError, match=r"more layers than it has, .*layer3\.6"):
        assign_state_dict(network, deeper, "file")
    whole = {**weights, "conv1.weight": weights["conv1.weight"].astype("int8")}
    with pytest.raises(ValueError, match=r"conv1\.weight' must hold floats.* int8"):
        assign_state_dict(network, whole, "file")


def test_missing_keys_and_wrong_shapes_are_reported():
    network = resnet50(widths=WIDTHS)
    before = [w.numpy() for w in network.weights]
    weights = state_dict()
    del weights["layer3.2.bn2.running_var"]
    with pytest.raises(ValueError, match=r"file must have the key 'layer3\.2\.bn2\.runn"):
        assign_state_dict(network, weights, "file")
    weights = openpifpaf(state_dict())
    weights["base_net.block5.0.conv2.weight"] = np.zeros((3, 3, 3, 3))
    with pytest.raises(
        ValueError, match=r"block5\.0\.conv2\.weight' must have the shape"
    ):
        assign_state_dict(network, weights, "file")
    for weight, old in zip(network.weights, before):
        np.testing.assert_array_equal(weight.numpy(), old)


def save_safetensors(path, weights):
    header, body = {"__metadata__": {"format": "pt"}}, b""
    names = {"float32": "F32", "float64": "F64", "int64": "I64"}
    for key, value in weights.items():
        value = np.ascontiguousarray(value)
        header[key] = {
            "dtype": names[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + value.nbytes],
        }
        body += value.tobytes()
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)


@pytest.fixture(scope="module")
def full_width_weights():
    return state_dict((64, 128, 256, 512))


def test_teacher_loads_from_npz_and_safetensors(tmp_path, full_width_weights):
    """The teacher takes raw RGB; both formats give the same network."""
    np.savez(tmp_path / "resnet50.npz", **full_width_weights)
    save_safetensors(tmp_path / "resnet50.safetensors", full_width_weights)
    photograph = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), "uint8")
    scaled = (photograph / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    expected = reference(full_width_weights, scaled[0].transpose(2, 0, 1)).transpose(
        1, 2, 0
    )
    for name in ("resnet50.npz", "resnet50.safetensors"):
        teacher = load_resnet50(tmp_path / name)
        got = teacher(photograph)[0]
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
    assert [s.stride for s in find_stages(teacher)] == [2, 4, 8, 16, 32]


def test_epsilon_of_an_openpifpaf_model_is_required(tmp_path, full_width_weights):
    pose = openpifpaf(full_width_weights)
    np.savez(tmp_path / "pose.npz", **pose)
    with pytest.raises(ValueError, match=r"pose\.npz is an OpenPifPaf model, .* epsilon"):
        load_resnet50(tmp_path / "pose.npz")
    given = load_resnet50(tmp_path / "pose.npz", epsilon=1e-3)
    pose = {f"module.{key}": value for key, value in pose.items()}
    np.savez(tmp_path / "module.npz", **pose)
    with pytest.raises(ValueError, match=r"module\.npz is an OpenPifPaf .* epsilon"):
        load_resnet50(tmp_path / "module.npz")
    np.savez(tmp_path / "noted.npz", **pose, **{EPSILON_KEY: np.float64(1e-3)})
    noted = load_resnet50(tmp_path / "noted.npz")
    assert [s.stride for s in find_stages(noted)] == [2, 4, 8, 16]
    photograph = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), "uint8")
    np.testing.assert_array_equal(noted(photograph), given(photograph))


def test_invalid_files_are_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Received: .*none\.npz"):
        read_state_dict(tmp_path / "none.npz")
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"objects\.npz must be .*keras_hybrid\.models"):
        read_state_dict(tmp_path / "objects.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match=r"text\.npz must be"):
        read_state_dict(tmp_path / "text.npz")
    whole = {"a": np.zeros(3, "float32")}
    save_safetensors(tmp_path / "a.safetensors", whole)
    data = (tmp_path / "a.safetensors").read_bytes()
    for name, broken in (
        ("short", data[:-4]),
        ("long_header", (2**40).to_bytes(8, "little") + data[8:]),
        ("type", data.replace(b"F32", b"XYZ")),
        ("empty", b""),
    ):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"{name}\.safetensors must be"):
            read_state_dict(path)
