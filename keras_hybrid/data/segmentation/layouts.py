"""The layouts of segmentation data that `--data_dir` may point to."""

from absl import logging

from keras_hybrid.data.folders import find_layout
from keras_hybrid.data.segmentation import camvid, cityscapes, gta5

_LAYOUTS = cityscapes, gta5, camvid


def open_dataset(data_dir, for_training=False):
    """Opens a Cityscapes or GTA5 tree, folders as CamVid's, or TFDS `cityscapes`.

    Label maps are read until they show two classes, all of them if they do not. Nothing
    is downloaded.

    Args:
        data_dir: Path.
        for_training: Whether to refuse training images of a single class.

    Returns:
        A `SegmentationDataset`.

    Raises:
        FileNotFoundError, ValueError: There is no such data, or no training image has a
            pixel of a class; the message says why.
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
            f"The label maps to train on in {path} must show two classes or more. "
            f"Received: {len(data.train)} label maps that show {alone}. Pixels of value "
            f"255 are of no class. Expected {expected}"
        )
    if data.test.shown == ():
        logging.warning(
            "No pixel of the %d test images in %s is of a class: there will be no mIoU",
            len(data.test),
            path,
        )
