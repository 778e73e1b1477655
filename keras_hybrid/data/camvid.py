"""Folders as those of CamVid in SegNet's tutorial."""

import numpy as np

from keras_hybrid.data.label_maps import (
    IGNORED,
    UNKNOWN,
    LabelMaps,
    source_of_files,
)

LAYOUT = (
    "folders as CamVid's: train/*.png or .jpg and trainannot/*.png of the same names, "
    "test/ and testannot/ (or val/ and valannot/) likewise, and classes.txt with the "
    "name of class n in line n+1"
)
_CAMVID = (
    *("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence"),
    *("Car", "Pedestrian", "Bicyclist", "Void"),
)
_NO_CLASS = "void", "unlabelled", "unlabeled", "ignore", "ignored"
_SUFFIXES = ".png", ".jpg", ".jpeg"


def is_at(path):
    """Whether a folder looks like CamVid's."""
    return (path / "train").is_dir() and (path / "trainannot").is_dir()


def open_at(path):
    """The `LabelMaps` in a folder of this layout.

    Without `classes.txt` the classes are CamVid's. Pixels of a class named Void, and
    those of value 255, are of no class. Where there is no `testannot/`, `val/` is for
    the test.
    """
    file = path / "classes.txt"
    lines = file.read_text().splitlines() if file.exists() else _CAMVID
    names = [line.strip() for line in lines if line.strip()]
    classes = tuple(name for name in names if name.lower() not in _NO_CLASS)
    class_of = np.full(256, UNKNOWN, "int16")
    class_of[: len(names)] = [
        classes.index(name) if name in classes else IGNORED for name in names
    ]
    class_of[255] = IGNORED
    test = "test" if (path / "testannot").is_dir() else "val"
    return LabelMaps(
        *(_split(path, split, class_of) for split in ("train", test)), classes
    )


def _split(path, split, class_of):
    images = sorted(
        file for file in (path / split).glob("*") if file.suffix.lower() in _SUFFIXES
    )
    pairs = [(image, path / f"{split}annot" / f"{image.stem}.png") for image in images]
    left_out = [str(image) for image, labels in pairs if not labels.exists()]
    pairs = [pair for pair in pairs if pair[1].exists()]
    if not pairs:
        raise FileNotFoundError(
            f"{path / split} must hold images with label maps in {split}annot. Received: "
            f"{len(images)} images and none of their label maps. Expected {LAYOUT}"
        )
    return source_of_files(pairs, class_of, left_out)
