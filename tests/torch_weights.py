"""State dicts of torchvision's networks with random weights."""

import numpy as np

WIDTHS, BLOCKS = (4, 6, 8, 10), (3, 4, 6, 3)


class _Random(dict):
    """Random weights by name."""

    def __init__(self, seed):
        super().__init__()
        self._generator = np.random.default_rng(seed)

    def convolution(self, name, out, into, size):
        scale = np.sqrt(2 / (into * size * size))
        kernel = self._generator.normal(0, scale, (out, into, size, size))
        self[f"{name}.weight"] = kernel.astype("float32")

    def norm(self, name, width):
        for key, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", -0.3, 0.3),
            ("running_mean", -0.3, 0.3),
            ("running_var", 0.5, 1.5),
        ):
            values = self._generator.uniform(low, high, width).astype("float32")
            self[f"{name}.{key}"] = values
        self[f"{name}.num_batches_tracked"] = np.array(7)


def state_dict(widths=WIDTHS, seed=0, blocks=BLOCKS, bottleneck=True):
    """Random weights of a ResNet in torchvision's layout: 320 keys for ResNet-50."""
    weights = _Random(seed)
    weights.convolution("conv1", widths[0], 3, 7)
    weights.norm("bn1", widths[0])
    into = widths[0]
    for stage, (width, count) in enumerate(zip(widths, blocks), start=1):
        out = 4 * width if bottleneck else width
        layers = [(width, 1), (width, 3), (out, 1)] if bottleneck else [(width, 3)] * 2
        for block in range(count):
            name, below = f"layer{stage}.{block}", into
            for i, (channels, size) in enumerate(layers, start=1):
                weights.convolution(f"{name}.conv{i}", channels, below, size)
                weights.norm(f"{name}.bn{i}", channels)
                below = channels
            if block == 0 and (stage > 1 or bottleneck):
                weights.convolution(f"{name}.downsample.0", out, into, 1)
                weights.norm(f"{name}.downsample.1", out)
            into = out
    weights["fc.weight"] = np.zeros((5, into), "float32")
    weights["fc.bias"] = np.zeros(5, "float32")
    return dict(weights)


def mobilenet_v2(seed=0):
    """Random weights of a narrow MobileNetV2 in torchvision's layout: 314 keys."""
    weights = _Random(seed)

    def layer(name, norm, out, into, size=1):
        weights.convolution(name, out, into, size)
        weights.norm(norm, out)

    layer("features.0.0", "features.0.1", 4, 3, 3)
    into, number = 4, 0
    for expansion, out, count in (
        *((1, 3, 1), (6, 4, 2), (6, 5, 3), (6, 6, 4)),
        *((6, 7, 3), (6, 8, 3), (6, 9, 1)),
    ):
        for _ in range(count):
            number += 1
            name, hidden, first = f"features.{number}.conv", expansion * into, 0
            if expansion > 1:
                layer(f"{name}.0.0", f"{name}.0.1", hidden, into)
                first = 1
            layer(f"{name}.{first}.0", f"{name}.{first}.1", hidden, 1, 3)
            layer(f"{name}.{first + 1}", f"{name}.{first + 2}", out, hidden)
            into = out
    layer("features.18.0", "features.18.1", 12, into)
    weights["classifier.1.weight"] = np.zeros((5, 12), "float32")
    weights["classifier.1.bias"] = np.zeros(5, "float32")
    return dict(weights)


def openpifpaf(weights, newer=True):
    """The weights under OpenPifPaf's names, with a head instead of the classifier."""
    renamed = {"head_nets.0.conv.weight": np.zeros((17, 3, 1, 1), "float32")}
    first, block = (
        ("base_net.input_block", "base_net.block{}")
        if newer
        else ("base_net.net.0", "base_net.net.{}")
    )
    for key, value in weights.items():
        part, _, rest = key.partition(".")
        if part in ("conv1", "bn1"):
            renamed[f"{first}.{int(part == 'bn1')}.{rest}"] = value
        elif part.startswith("layer"):
            number = int(part[-1]) + newer
            renamed[f"{block.format(number)}.{rest}"] = value
    return renamed
