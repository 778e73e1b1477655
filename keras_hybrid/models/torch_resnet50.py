"""The ResNet-50 of torchvision and OpenPifPaf, with their weights.

It is version 1.5, which strides in the 3x3 convolution and has no biases; that of Keras
Applications is version 1. The weights of one are of no use to the other.
"""

import re
from typing import NamedTuple

import keras
from absl import logging
from keras import layers

from keras_hybrid import applications
from keras_hybrid.models.state_dict import EPSILON_KEY, read_state_dict

_TORCHVISION_EPSILON = 1e-5
_MOMENTUM = 0.9  # 0.1 in PyTorch, which weighs what is new by it
_OPENPIFPAF = "base_net."
_BATCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def load_resnet50(path, epsilon=None):
    """The network of a state dict, as a teacher that takes raw RGB.

    Args:
        path: An `.npz` or `.safetensors` file, see `state_dict`: torchvision's ResNet-50,
            or an OpenPifPaf model with that backbone (Kreiss et al. 2019; no max pooling,
            so its stages have the strides 2, 4, 8 and 16). Heads are not used.
        epsilon: Of the BatchNorms. By default what the file says of it; else 1e-5, that
            of torchvision. OpenPifPaf used 1e-4 (0.10, 0.11) or 1e-3 (0.13), and with
            the wrong one the network is useless.

    Returns:
        A Functional model from images (B, H, W, 3), raw RGB, to the last map (B, h, w,
        2048).

    Raises:
        FileNotFoundError, ValueError: There is no such network in the file; the message
            names the key.
    """
    weights = read_state_dict(path)
    is_pose = _names(weights, path).blocks.startswith(_OPENPIFPAF)
    if epsilon is None and EPSILON_KEY in weights:
        epsilon = float(weights[EPSILON_KEY])
    if epsilon is None and is_pose:
        raise ValueError(
            f"{path} is of OpenPifPaf, and the BatchNorms' epsilon must be given: 1e-4 "
            "for its versions 0.10 and 0.11, 1e-3 for 0.13"
        )
    network = resnet50(
        max_pool=not is_pose,
        epsilon=_TORCHVISION_EPSILON if epsilon is None else epsilon,
    )
    unused = assign_state_dict(network, weights, path)
    if unused:
        logging.info("%s: %d keys not used, such as %s", path, len(unused), unused[0])
    return applications.with_preprocessing(network, "torch")


def resnet50(
    max_pool=True,
    epsilon=_TORCHVISION_EPSILON,
    widths=(64, 128, 256, 512),
    blocks=(3, 4, 6, 3),
):
    """ResNet-50 version 1.5 (He et al. 2016, as torchvision has it), without a top.

    Args:
        max_pool: Whether there is one behind the first convolution.
        epsilon: Of the BatchNorms.
        widths: Channels of the four stages' bottlenecks.
        blocks: How many bottlenecks each stage has; with others it is no ResNet-50.

    Returns:
        A Functional model of images (B, H, W, 3), normalised, to (B, h, w, 4 *
        widths[3]). Layers have torchvision's names with `_` for the dot.
    """
    x = image = keras.Input((None, None, 3), name="image")
    x = _convolution(x, widths[0], 7, 2, "conv1")
    x = _norm_relu(x, "bn1", epsilon)
    if max_pool:
        # Of zeros, which are the least behind a ReLU.
        x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="maxpool")(x)
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
        for block in range(count):
            stride = 2 if stage > 1 and block == 0 else 1
            x = _bottleneck(
                x, width, stride, f"layer{stage}_{block}", epsilon, block == 0
            )
    return keras.Model(image, x, name=f"resnet{3 * sum(blocks) + 2}_v1_5")


def _bottleneck(x, width, stride, name, epsilon, projects):
    shortcut = x
    if projects:
        shortcut = _convolution(shortcut, 4 * width, 1, stride, f"{name}_downsample_0")
        shortcut = _norm(shortcut, f"{name}_downsample_1", epsilon)
    x = _convolution(x, width, 1, 1, f"{name}_conv1")
    x = _norm_relu(x, f"{name}_bn1", epsilon)
    x = _convolution(x, width, 3, stride, f"{name}_conv2")
    x = _norm_relu(x, f"{name}_bn2", epsilon)
    x = _convolution(x, 4 * width, 1, 1, f"{name}_conv3")
    x = layers.Add(name=f"{name}_add")([_norm(x, f"{name}_bn3", epsilon), shortcut])
    return layers.ReLU(name=f"{name}_relu")(x)


def _convolution(x, width, size, stride, name):
    if size > 1:
        # "same" would pad otherwise where it strides.
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    return layers.Conv2D(width, size, stride, use_bias=False, name=name)(x)


def _norm(x, name, epsilon):
    return layers.BatchNormalization(momentum=_MOMENTUM, epsilon=epsilon, name=name)(x)


def _norm_relu(x, name, epsilon):
    return layers.ReLU(name=f"{name}_relu")(_norm(x, name, epsilon))


def assign_state_dict(network, weights, path):
    """Gives what `resnet50` returns the weights of a state dict.

    Args:
        network: Of `resnet50`.
        weights: Name -> array, torchvision's or OpenPifPaf's names, all with the same
            prefix where the network was part of another, such as `module.backbone.`.
        path: Where they are from, for the message.

    Returns:
        The keys that were not used, those of counters left out.

    Raises:
        ValueError: A key is missing, its array has another shape or type, or there are
            layers that a ResNet-50 does not have.
    """
    known = _names(weights, path)
    wanted = {}
    for layer in network.layers:
        key = layer.name.replace("_", ".")
        if isinstance(layer, layers.Conv2D):
            wanted[f"{key}.weight"] = layer.kernel
        elif isinstance(layer, layers.BatchNormalization):
            for own, name in _BATCH_NORM.items():
                wanted[f"{key}.{name}"] = getattr(layer, own)
    names = {key: known.key(key) for key in wanted}
    for key, variable in wanted.items():
        if names[key] not in weights:
            raise ValueError(
                f"{path} must have the key {names[key]!r} of a ResNet-50. Received: "
                f"{len(weights)} keys, such as {sorted(weights)[:3]}"
            )
        value = weights[names[key]]
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        if value.shape != tuple(variable.shape):
            raise ValueError(
                f"{path}: {names[key]!r} must have the shape of a ResNet-50's. Received: "
                f"{weights[names[key]].shape}, and in Keras's order {value.shape} for "
                f"{tuple(variable.shape)}"
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
            f"{path} must be of a ResNet-50. Received: more layers than it has, such as "
            f"{more[0]!r}"
        )
    for key, variable in wanted.items():
        value = weights[names[key]]
        variable.assign(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)
    return unused


class _Names(NamedTuple):
    """What a file calls the parts of a ResNet-50."""

    convolution: str
    norm: str
    """The first ones, `conv1` and `bn1` of torchvision."""
    blocks: str
    """`{}` is the stage."""
    first_stage: int
    prefix: str = ""

    @property
    def example(self):
        """A key that no other kind of file has."""
        return f"{self.blocks.format(self.first_stage)}0.conv1.weight"

    def key(self, key):
        """torchvision's key as the file has it."""
        first, _, rest = key.partition(".")
        if first in ("conv1", "bn1"):
            start = self.convolution if first == "conv1" else self.norm
        else:
            stage = int(first.removeprefix("layer")) - 1 + self.first_stage
            start = self.blocks.format(stage)
        return f"{self.prefix}{start}{rest}"

    def is_of_a_block(self, key):
        blocks = re.escape(self.prefix + self.blocks.partition("{")[0])
        return re.match(rf"{blocks}\d", key) is not None


_TORCHVISION = _Names("conv1.", "bn1.", "layer{}.", 1)
_KNOWN = (
    _TORCHVISION,
    _Names("base_net.input_block.0.", "base_net.input_block.1.", "base_net.block{}.", 2),
    _Names("base_net.net.0.0.", "base_net.net.0.1.", "base_net.net.{}.", 1),
)


def _names(weights, path):
    """The `_Names` of a file."""
    for known in _KNOWN:
        prefixes = {
            key.removesuffix(known.example)
            for key in weights
            if f".{key}".endswith(f".{known.example}")
        }
        if "" in prefixes:
            return known
        if len(prefixes) > 1:
            raise ValueError(
                f"{path} must hold one ResNet-50. Received: {len(prefixes)}, with the "
                f"prefixes {', '.join(sorted(prefixes))}"
            )
        if prefixes:
            return known._replace(prefix=prefixes.pop())
    return _TORCHVISION
