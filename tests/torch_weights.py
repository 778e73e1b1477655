"""State dicts of PyTorch's ResNet-50 with random weights."""

import numpy as np

WIDTHS, BLOCKS = (4, 6, 8, 10), (3, 4, 6, 3)


def state_dict(widths=WIDTHS, seed=0, blocks=BLOCKS):
    """Random weights in torchvision's layout: 320 keys, including the classifier."""
    generator = np.random.default_rng(seed)
    weights = {}

    def convolution(name, out, into, size):
        scale = np.sqrt(2 / (into * size * size))
        kernel = generator.normal(0, scale, (out, into, size, size))
        weights[f"{name}.weight"] = kernel.astype("float32")

    def norm(name, width):
        for key, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", -0.3, 0.3),
            ("running_mean", -0.3, 0.3),
            ("running_var", 0.5, 1.5),
        ):
            values = generator.uniform(low, high, width).astype("float32")
            weights[f"{name}.{key}"] = values
        weights[f"{name}.num_batches_tracked"] = np.array(7)

    convolution("conv1", widths[0], 3, 7)
    norm("bn1", widths[0])
    into = widths[0]
    for stage, (width, count) in enumerate(zip(widths, blocks), start=1):
        for block in range(count):
            name = f"layer{stage}.{block}"
            convolution(f"{name}.conv1", width, into, 1)
            norm(f"{name}.bn1", width)
            convolution(f"{name}.conv2", width, width, 3)
            norm(f"{name}.bn2", width)
            convolution(f"{name}.conv3", 4 * width, width, 1)
            norm(f"{name}.bn3", 4 * width)
            if block == 0:
                convolution(f"{name}.downsample.0", 4 * width, into, 1)
                norm(f"{name}.downsample.1", 4 * width)
            into = 4 * width
    weights["fc.weight"] = np.zeros((5, into), "float32")
    weights["fc.bias"] = np.zeros(5, "float32")
    return weights


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
