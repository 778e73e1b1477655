"""A data set for segmentation, opened from where `--data_dir` points."""

import pathlib

from absl import logging

from keras_hybrid.data import camvid, cityscapes, gta5

_LAYOUTS = cityscapes, gta5, camvid


def open_label_maps(data_dir, for_training=False):
    """Opens a Cityscapes or GTA5 tree, folders as CamVid's, or TFDS `cityscapes`.

    Label maps are read until they show two classes, all of them if they do not. Nothing
    is downloaded.

    Args:
        data_dir: Path.
        for_training: Whether to refuse training images of a single class.

    Returns:
        A `LabelMaps`.

    Raises:
        FileNotFoundError, ValueError: There is no such data, or no training image has a
            pixel of a class; the message says why.
    """
    path = pathlib.Path(data_dir).expanduser()
    expected = f"Expected {'; or '.join(layout.LAYOUT for layout in _LAYOUTS)}"
    if not path.is_dir():
        raise FileNotFoundError(
            f"`data_dir` must be a folder. Received: data_dir={data_dir}. {expected}"
        )
    for layout in _LAYOUTS:
        if layout.is_at(path):
            data = layout.open_at(path)
            _check_shown(path, data, for_training, layout.LAYOUT)
            return data
    found = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    raise FileNotFoundError(
        f"`data_dir` must have a known layout. Received: data_dir={data_dir} with "
        f"{', '.join(found[:5]) or 'nothing'}. {expected}"
    )


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
