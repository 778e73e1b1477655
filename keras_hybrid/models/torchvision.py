"""Networks of torchvision with the weights of a state dict, as teachers and students."""

import os
from collections.abc import Mapping

import keras
import numpy as np
from keras import layers

from keras_hybrid.hybrid.preprocessing import normalized
from keras_hybrid.models.state_dict import EPSILON_KEY, prefix_of, read_state_dict
from keras_hybrid.models.torch_resnet50 import BATCH_NORM, MOMENTUM, load_resnet50

_EPSILON = 1e-5
_LAST_BLOCK = 17
_STRIDED_BLOCKS = 2, 4, 7, 14
"""Blocks of MobileNetV2 that halve the map (Sandler et al. 2018, Table 2)."""


def load(path: str | os.PathLike, epsilon: float | None = None) -> keras.Model:
    """Loads a network of torchvision that takes raw RGB images.

    Args:
        path: Path of a file (see `state_dict`) with torchvision's MobileNetV2 of any
            width, ResNet-18, 34, 50, 101 or 152, or an OpenPifPaf model on a ResNet.
        epsilon: Epsilon of the batch normalization layers, as for `load_resnet50`.

    Returns:
        A Functional model from raw RGB images (B, H, W, 3) to the last feature map (B, h,
        w, C). The head of the file is not used.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has no such network; the message names a key.
    """
    weights = read_state_dict(path)
    prefix = prefix_of(weights, "features.1.conv.0.0.weight", path, "MobileNetV2")
    if prefix is None:
        return load_resnet50(path, epsilon)
    epsilon = epsilon or float(weights.get(EPSILON_KEY, _EPSILON))
    weights = {
        key.removeprefix(prefix): value
        for key, value in weights.items()
        if key.startswith(prefix)
    }
    return mobilenet_v2(weights, path, epsilon, raw_rgb=True)


def mobilenet_v2(
    weights: Mapping[str, np.ndarray],
    path: str | os.PathLike,
    epsilon: float = _EPSILON,
    raw_rgb: bool = False,
) -> keras.Model:
    """Builds torchvision's MobileNetV2 without its classifier, with the given weights.

    Args:
        weights: Arrays by torchvision's names; they say how wide the network is.
        path: Origin of the weights, for error messages.
        epsilon: Epsilon of the batch normalization layers.
        raw_rgb: Whether it takes RGB in 0-255 and normalises it itself.

    Returns:
        A Functional model from normalised images (B, H, W, 3) to the last feature map
        (B, h, w, C). Layers have torchvision's names with `_` for the dot.

    Raises:
        ValueError: A key is missing or an array has the wrong shape.
    """
    image = keras.Input((None, None, 3), name="image")
    x = normalized(image, "torch" if raw_rgb else "inside")
    assigned = []

    def convolution(x, key, norm_key, size=1, stride=1, activates=True):
        kernel = _array(weights, f"{key}.weight", path)
        depthwise = size == 3 and kernel.shape[1] == 1
        if size > 1:
            # With a stride, "same" would pad differently from PyTorch.
            x = layers.ZeroPadding2D(size // 2, name=f"{_name(key)}_pad")(x)
        options = {"use_bias": False, "name": _name(key)}
        if depthwise:
            layer = layers.DepthwiseConv2D(size, stride, **options)
        else:
            layer = layers.Conv2D(kernel.shape[0], size, stride, **options)
        x = layer(x)
        order = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
        assigned.append((layer.kernel, f"{key}.weight", kernel.transpose(order)))
        norm = layers.BatchNormalization(
            momentum=MOMENTUM, epsilon=epsilon, name=_name(norm_key)
        )
        x = norm(x)
        for own, name in BATCH_NORM.items():
            array = _array(weights, f"{norm_key}.{name}", path)
            assigned.append((getattr(norm, own), f"{norm_key}.{name}", array))
        return layers.ReLU(6.0, name=f"{_name(norm_key)}_relu")(x) if activates else x

    x = convolution(x, "features.0.0", "features.0.1", 3, 2)
    for i in range(1, _LAST_BLOCK + 1):
        before, block = x, f"features.{i}.conv"
        expands = i > 1
        if expands:
            x = convolution(x, f"{block}.0.0", f"{block}.0.1")
        stride = 2 if i in _STRIDED_BLOCKS else 1
        depthwise = f"{block}.{int(expands)}"
        x = convolution(x, f"{depthwise}.0", f"{depthwise}.1", 3, stride)
        last = 2 if expands else 1
        x = convolution(x, f"{block}.{last}", f"{block}.{last + 1}", activates=False)
        if stride == 1 and before.shape[-1] == x.shape[-1]:
            x = layers.Add(name=f"features_{i}_add")([before, x])
    last = f"features.{_LAST_BLOCK + 1}"
    x = convolution(x, f"{last}.0", f"{last}.1")
    for variable, key, value in assigned:
        if value.shape != tuple(variable.shape) or value.dtype.kind != "f":
            raise ValueError(
                f"{path}: {key!r} must hold floats of the shape {tuple(variable.shape)} "
                f"in Keras's order. Received: {value.dtype} of {value.shape}"
            )
        variable.assign(value)
    return keras.Model(image, x, name="mobilenet_v2")


def _name(key):
    return key.replace(".", "_")


def _array(weights, key, path):
    if key not in weights:
        raise ValueError(
            f"{path} must have the key {key!r} of a MobileNetV2. Received: "
            f"{len(weights)} keys, such as {sorted(weights)[:3]}"
        )
    return weights[key]
