"""Tiny data sets on disk in the layouts of real data sets."""

import numpy as np
from PIL import Image

SIZE = 32, 64  # height, width


def save(path, array, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:  # as in GTA5: pixels are class indices, the colours are arbitrary
        image = Image.fromarray(array, "P")
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    image.save(path)


def grey(level, size=SIZE):
    return np.full((*size, 3), level, "uint8")


def halves(left, right, size=SIZE):
    """A label map with one value in its left half and another in its right half."""
    labels = np.full(size, right, "uint8")
    labels[:, : size[1] // 2] = left
    return labels


def add_cityscapes(root, split, images, label_maps):
    """Add a split to a Cityscapes tree."""
    for i, (image, labels) in enumerate(zip(images, label_maps)):
        stem = f"aachen_{i:06}_000019"
        folder = f"{split}/aachen"
        save(root / "leftImg8bit" / folder / f"{stem}_leftImg8bit.png", image)
        save(root / "gtFine" / folder / f"{stem}_gtFine_labelIds.png", labels)
