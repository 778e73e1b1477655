"""GTA5 (Richter et al. 2016), rendered streets with the classes of Cityscapes."""

import numpy as np

from keras_hybrid.data.cityscapes import CLASS_OF, CLASSES
from keras_hybrid.data.label_maps import LabelMaps, source_of_files

LAYOUT = "GTA5: images/*.png and labels/*.png of the same names"

_HELD_OUT = 500
"""Images for the test, drawn at random (paper, "Datasets")."""


def is_at(path):
    """Whether a folder looks like GTA5."""
    return (path / "images").is_dir() and (path / "labels").is_dir()


def open_at(path):
    """The `LabelMaps` in a folder of this layout.

    Of the 500 test images the paper does not say which; they are drawn with a fixed seed.
    Of fewer than 5000 images a tenth is held out.
    """
    images = {image.stem: image for image in (path / "images").glob("*.png")}
    labels = {image.stem: image for image in (path / "labels").glob("*.png")}
    names = sorted(images.keys() & labels.keys())
    if len(names) < 2:
        raise FileNotFoundError(
            f"{path} must hold at least two images with label maps. Received: "
            f"{len(images)} images, {len(labels)} label maps, {len(names)} of one name. "
            f"Expected {LAYOUT}"
        )
    held_out = min(_HELD_OUT, max(1, len(names) // 10))
    order = np.random.default_rng(0).permutation(len(names))
    test, train = (
        [(images[names[i]], labels[names[i]]) for i in sorted(part)]
        for part in (order[:held_out], order[held_out:])
    )
    left_out = [str(images[name]) for name in sorted(images.keys() - labels.keys())]
    return LabelMaps(
        source_of_files(train, CLASS_OF, left_out),
        source_of_files(test, CLASS_OF),
        CLASSES,
    )
