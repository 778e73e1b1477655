"""Layouts of segmentation data that `--data_dir` accepts."""

import os

from absl import logging

from keras_hybrid.data.folders import find_layout
from keras_hybrid.data.segmentation import camvid, cityscapes, gta5
from keras_hybrid.data.segmentation.dataset import SegmentationDataset

_LAYOUTS = cityscapes, gta5, camvid


def open_dataset(
    data_dir: str | os.PathLike, for_training: bool = False
) -> SegmentationDataset:
    """Opens a Cityscapes or GTA5 tree, CamVid-style folders, or TFDS `cityscapes`.

    Label maps are read until they show two classes, all of them if they never do. Nothing
    is downloaded.

    Args:
        data_dir: Path of the data set.
        for_training: Whether to reject training images that show a single class.

    Returns:
        A `SegmentationDataset`.

    Raises:
        FileNotFoundError, ValueError: If there is no such data, or the training images
            show no class at all; the message gives the reason.
    """
    layout, path = find_layout(data_dir, _LAYOUTS)
    data = layout.open_at(path)
    _check_shown(path, data, for_training, layout.LAYOUT)
    return data


def _check_shown(path, data, for_training, expected):
    shown = data.train.shown
    if shown is not None and len(shown) <= for_training:
        alone = f"only {data.class_names[shown[0]]!r}" if shown else "no class at all"
        raise ValueError(
            f"The training label maps in {path} must show two classes or more. "
            f"Received: {len(data.train)} label maps that show {alone}. Pixels of value "
            f"255 have no class. Expected {expected}"
        )
    if data.test.shown == ():
        logging.warning(
            "No pixel of the %d test images in %s has a class: there will be no mIoU",
            len(data.test),
            path,
        )
