"""Folders in the layout of CamVid in SegNet's tutorial."""

import pathlib

from keras_hybrid.data.segmentation import class_names
from keras_hybrid.data.segmentation.dataset import (
    SegmentationDataset,
    pairs_in,
    source_of_files,
)

LAYOUT = (
    "CamVid-style folders: train/*.png or .jpg and trainannot/*.png with the same names, "
    "likewise test/ and testannot/ (or val/ and valannot/), and classes.txt with the "
    "name of class n on line n+1"
)
_CAMVID = (
    *("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence"),
    *("Car", "Pedestrian", "Bicyclist", "Void"),
)


def is_at(path: pathlib.Path) -> bool:
    """Whether a folder looks like CamVid."""
    return (path / "train").is_dir() and (path / "trainannot").is_dir()


def open_at(path: pathlib.Path) -> SegmentationDataset:
    """Opens a folder of this layout as a `SegmentationDataset`.

    Without a `classes.txt` (see `class_names.read`) the classes are CamVid's. Without a
    `testannot/`, the images in `val/` are the test images.
    """
    file = path / "classes.txt"
    known = class_names.read(file) if file.exists() else class_names.of_names(_CAMVID)
    classes, class_of = known
    test = "test" if (path / "testannot").is_dir() else "val"
    return SegmentationDataset(
        *(_split(path, split, class_of) for split in ("train", test)), classes
    )


def _split(path, split, class_of):
    folders = path / split, path / f"{split}annot"
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise FileNotFoundError(f"{missing[0]} must be a folder. Expected {LAYOUT}")
    pairs, left_out, _ = pairs_in(*folders)
    if not pairs:
        raise FileNotFoundError(
            f"{path / split} must hold images with label maps in {split}annot. Received: "
            f"{len(left_out)} images and none of their label maps. Expected {LAYOUT}"
        )
    return source_of_files(pairs, class_of, left_out)
