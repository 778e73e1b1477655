"""A data set for segmentation, opened from where `--data_dir` points."""

import pathlib

from keras_hybrid.data import camvid, cityscapes, gta5

_LAYOUTS = cityscapes, gta5, camvid


def open_label_maps(data_dir):
    """Opens a Cityscapes or GTA5 tree, folders as CamVid's, or TFDS `cityscapes`.

    One pair of each split is read already. Nothing is downloaded.

    Args:
        data_dir: Path.

    Returns:
        A `LabelMaps`.

    Raises:
        FileNotFoundError, ValueError: There is no such data; the message says why.
    """
    path = pathlib.Path(data_dir).expanduser()
    expected = f"Expected {'; or '.join(layout.LAYOUT for layout in _LAYOUTS)}"
    if not path.is_dir():
        raise FileNotFoundError(
            f"`data_dir` must be a folder. Received: data_dir={data_dir}. {expected}"
        )
    for layout in _LAYOUTS:
        if layout.is_at(path):
            return layout.open_at(path)
    found = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    raise FileNotFoundError(
        f"`data_dir` must have a known layout. Received: data_dir={data_dir} with "
        f"{', '.join(found[:5]) or 'nothing'}. {expected}"
    )
