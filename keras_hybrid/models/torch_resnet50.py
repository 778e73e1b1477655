"""The ResNet-50 of torchvision and OpenPifPaf, with their weights, and its siblings.

It is version 1.5, which strides in the 3x3 convolution and has no biases; Keras
Applications has version 1. The weights of one version do not fit the other.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
from absl import logging
from keras import layers

from keras_hybrid.hybrid.preprocessing import normalized
from keras_hybrid.models.state_dict import EPSILON_KEY, prefix_of, read_state_dict

_TORCHVISION_EPSILON = 1e-5
MOMENTUM = 0.9  # 0.1 in PyTorch, where it is the weight of the new value
_OPENPIFPAF = "base_net."
_MOST_BLOCKS = 64  # of a stage; ResNet-152 has 36
BATCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def load_resnet50(path: str | os.PathLike, epsilon: float | None = None) -> keras.Model:
    """Loads the network of a state dict as a teacher that takes raw RGB images.

    Args:
        path: Path of a file (see `state_dict`) with torchvision's ResNet-50, or 18, 34,
            101 or 152, or an OpenPifPaf model that has one as its backbone (Kreiss et al.
            2019; without max pooling, so its stages have the strides 2, 4, 8 and 16).
            Heads are not used.
        epsilon: Epsilon of the batch normalization layers. None for the one recorded in
            the file or, without a record, torchvision's 1e-5. For OpenPifPaf it must be
            recorded or given: 1e-4 (versions 0.10 and 0.11) or 1e-3 (0.13); with the
            wrong one the network is useless.

    Returns:
        A Functional model from raw RGB images (B, H, W, 3) to the last feature map (B, h,
        w, C); C is 2048 for ResNet-50.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has no such network, in which case the message names the
            key, or lacks the epsilon.
    """
    weights = read_state_dict(path)
    known = _names(weights, path)
    is_pose = known.blocks.startswith(_OPENPIFPAF)
    if epsilon is None and EPSILON_KEY in weights:
        epsilon = float(weights[EPSILON_KEY])
    if epsilon is None and is_pose:
        raise ValueError(
            f"{path} is an OpenPifPaf model, for which the batch normalization epsilon "
            "must be given: 1e-4 for versions 0.10 and 0.11, 1e-3 for 0.13"
        )
    network = resnet50(
        max_pool=not is_pose,
        epsilon=_TORCHVISION_EPSILON if epsilon is None else epsilon,
        **_architecture(weights, known),
        raw_rgb=True,
    )
    unused = assign_state_dict(network, weights, path)
    if unused:
        logging.info("%s: %d keys not used, such as %s", path, len(unused), unused[0])
    return network


def resnet50(
    max_pool: bool = True,
    epsilon: float = _TORCHVISION_EPSILON,
    widths: Sequence[int] = (64, 128, 256, 512),
    blocks: Sequence[int] = (3, 4, 6, 3),
    *,
    bottleneck: bool = True,
    raw_rgb: bool = False,
) -> keras.Model:
    """Builds ResNet-50 version 1.5 (He et al. 2016, as in torchvision) without a top.

    Args:
        max_pool: Whether max pooling follows the first convolution.
        epsilon: Epsilon of the batch normalization layers.
        widths: Width of the 3x3 convolutions in each of the four stages.
        blocks: Number of blocks in each stage; others than the default make another
            ResNet.
        bottleneck: Whether a block has a 1x1, a 3x3 and a 1x1 convolution, the last of
            which has four times the width, or two 3x3 ones, as in ResNet-18 and 34.
        raw_rgb: Whether it takes RGB in 0-255 and normalises it itself.

    Returns:
        A Functional model from normalised images (B, H, W, 3) to the last feature map
        (B, h, w, C). Layers have torchvision's names with `_` for the dot.
    """
    image = keras.Input((None, None, 3), name="image")
    x = normalized(image, "torch" if raw_rgb else "inside")
    x = _convolution(x, widths[0], 7, 2, "conv1")
    x = _norm_relu(x, "bn1", epsilon)
    if max_pool:
        # Zeros never win the maximum, since ReLU outputs are not below them.
        x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="maxpool")(x)
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
        for block in range(count):
            stride = 2 if stage > 1 and block == 0 else 1
            convolutions = [(width, 3, stride), (width, 3, 1)]
            if bottleneck:
                convolutions = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
            x = _block(x, convolutions, stride, f"layer{stage}_{block}", epsilon)
    return keras.Model(image, x, name=f"resnet{_depth(blocks, bottleneck)}_v1_5")


def _depth(blocks, bottleneck):
    """Number of convolutions on the longest route, and the classifier."""
    return (3 if bottleneck else 2) * sum(blocks) + 2


def _block(x, convolutions, stride, name, epsilon):
    """A residual block of convolutions (width, size, stride)."""
    shortcut, width = x, convolutions[-1][0]
    if stride > 1 or x.shape[-1] != width:
        shortcut = _convolution(shortcut, width, 1, stride, f"{name}_downsample_0")
        shortcut = _norm(shortcut, f"{name}_downsample_1", epsilon)
    for i, convolution in enumerate(convolutions, start=1):
        x = layers.ReLU(name=f"{name}_bn{i - 1}_relu")(x) if i > 1 else x
        x = _convolution(x, *convolution, f"{name}_conv{i}")
        x = _norm(x, f"{name}_bn{i}", epsilon)
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_relu")(x)


def _convolution(x, width, size, stride, name):
    if size > 1:
        # With a stride, "same" would pad differently from PyTorch.
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    return layers.Conv2D(width, size, stride, use_bias=False, name=name)(x)


def _norm(x, name, epsilon):
    return layers.BatchNormalization(momentum=MOMENTUM, epsilon=epsilon, name=name)(x)


def _norm_relu(x, name, epsilon):
    return layers.ReLU(name=f"{name}_relu")(_norm(x, name, epsilon))


def assign_state_dict(
    network: keras.Model, weights: Mapping[str, np.ndarray], path: str | os.PathLike
) -> list[str]:
    """Assigns the weights of a state dict to a network that `resnet50` built.

    Args:
        network: Model that `resnet50` returned.
        weights: Arrays by torchvision's or OpenPifPaf's names. If the network was part of
            another, all of its names have one prefix, such as `module.backbone.`.
        path: Origin of the weights, for error messages.

    Returns:
        The keys that were not used, without the counters `num_batches_tracked`.

    Raises:
        ValueError: A key is missing, an array has the wrong shape or type, or there are
            layers that the network does not have.
    """
    known = _names(weights, path)
    kind = f"ResNet-{network.name.removeprefix('resnet').removesuffix('_v1_5')}"
    wanted = {}
    for layer in network.layers:
        key = layer.name.replace("_", ".")
        if isinstance(layer, layers.Conv2D):
            wanted[f"{key}.weight"] = layer.kernel
        elif isinstance(layer, layers.BatchNormalization):
            for own, name in BATCH_NORM.items():
                wanted[f"{key}.{name}"] = getattr(layer, own)
    names = {key: known.key(key) for key in wanted}
    for key, variable in wanted.items():
        if names[key] not in weights:
            raise ValueError(
                f"{path} must have the key {names[key]!r} of a {kind}. Received: "
                f"{len(weights)} keys, such as {sorted(weights)[:3]}"
            )
        value = weights[names[key]]
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        if value.shape != tuple(variable.shape):
            raise ValueError(
                f"{path}: {names[key]!r} must have the shape that a {kind} has there, "
                f"{tuple(variable.shape)} in Keras's order. Received: "
                f"{weights[names[key]].shape}, which is {value.shape} in Keras's order"
            )
        if value.dtype.kind != "f":
            raise ValueError(
                f"{path}: {names[key]!r} must hold floats. Received: {value.dtype}"
            )
    used = {*names.values(), EPSILON_KEY}
    unused = [
        key for key in weights if key not in used and "num_batches_tracked" not in key
    ]
    if more := [key for key in unused if known.is_of_a_block(key)]:
        raise ValueError(
            f"{path} must hold a {kind}. Received: more layers than it has, such as "
            f"{more[0]!r}"
        )
    for key, variable in wanted.items():
        value = weights[names[key]]
        variable.assign(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)
    return unused


def _architecture(weights, known):
    """Widths, blocks and kind of the ResNet in a file; nothing if there is none."""
    kernels = [
        [
            weights.get(known.key(f"layer{stage}.{block}.conv2.weight"))
            for block in range(_MOST_BLOCKS)
        ]
        for stage in range(1, 5)
    ]
    if any(stage[0] is None for stage in kernels):
        return {}
    return {
        "widths": [stage[0].shape[0] for stage in kernels],
        "blocks": [sum(kernel is not None for kernel in stage) for stage in kernels],
        "bottleneck": known.key("layer1.0.conv3.weight") in weights,
    }


class _Names(NamedTuple):
    """How the keys of one kind of file begin, by part of the ResNet-50."""

    convolution: str
    norm: str
    """The first layers, `conv1` and `bn1` in torchvision."""
    blocks: str
    """The blocks of a stage, with `{}` for its number."""
    first_stage: int
    prefix: str = ""

    @property
    def example(self) -> str:
        """A key that only this kind of file has."""
        return f"{self.blocks.format(self.first_stage)}0.conv1.weight"

    def key(self, key: str) -> str:
        """Translates torchvision's key to that of the file."""
        first, _, rest = key.partition(".")
        if first in ("conv1", "bn1"):
            start = self.convolution if first == "conv1" else self.norm
        else:
            stage = int(first.removeprefix("layer")) - 1 + self.first_stage
            start = self.blocks.format(stage)
        return f"{self.prefix}{start}{rest}"

    def is_of_a_block(self, key: str) -> bool:
        blocks = re.escape(self.prefix + self.blocks.partition("{")[0])
        return re.match(rf"{blocks}\d", key) is not None


_TORCHVISION = _Names("conv1.", "bn1.", "layer{}.", 1)
_KNOWN = (
    _TORCHVISION,
    _Names("base_net.input_block.0.", "base_net.input_block.1.", "base_net.block{}.", 2),
    _Names("base_net.net.0.0.", "base_net.net.0.1.", "base_net.net.{}.", 1),
)


def _names(weights, path):
    """Finds the `_Names` of a file."""
    for known in _KNOWN:
        prefix = prefix_of(weights, known.example, path, "ResNet-50")
        if prefix is not None:
            return known._replace(prefix=prefix)
    return _TORCHVISION
