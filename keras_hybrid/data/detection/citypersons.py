"""CityPersons (Zhang et al. 2017): pedestrian annotations for Cityscapes."""

import os
import pathlib

import numpy as np
import scipy.io

from keras_hybrid.data.detection.dataset import DetectionDataset, People, source_of_files
from keras_hybrid.metrics import records

LAYOUT = (
    "CityPersons: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with "
    "annotations/anno_SPLIT.mat, or with "
    "gtBboxCityPersons/SPLIT/CITY/*_gtBboxCityPersons.json, for the splits train and val"
)
# All other labels are ignored: riders, sitting and other persons, groups, "ignore".
_PEDESTRIAN, _PEDESTRIAN_LABEL = 1, "pedestrian"
_MAT_FOLDERS = ".", "annotations"
_WITHOUT_AREA, _NO_BOX = "boxes without an area", (np.nan,) * 4
_JSON_FOLDERS = "gtBboxCityPersons", "gtBbox_cityPersons_trainval/gtBboxCityPersons"


def is_at(path: pathlib.Path) -> bool:
    """Whether a folder looks like Cityscapes with CityPersons annotations."""
    return (path / "leftImg8bit").is_dir() and bool(_annotations(path, "train"))


def open_at(path: pathlib.Path, min_height: float) -> DetectionDataset:
    """Opens a folder of this layout; the validation images are the test images.

    Args:
        path: Path of the folder.
        min_height: As in `DetectionSource`.
    """
    return DetectionDataset(
        *(_split(path, split, min_height) for split in ("train", "val"))
    )


def _split(path, split, min_height):
    annotations = _annotations(path, split)
    if annotations is None:
        raise FileNotFoundError(
            f"{path} must hold annotations of the split {split}. Expected {LAYOUT}"
        )
    if annotations.is_dir():
        images, people = _read_folder(annotations)
    else:
        images, people = read_mat(annotations)
    folder = path / "leftImg8bit" / split
    return source_of_files(
        [folder / image for image in images], people, min_height=min_height
    )


def _annotations(path, split):
    """Path of the `.mat` file or of the folder of JSON files; None without either."""
    for folder in _MAT_FOLDERS:
        if (file := path / folder / f"anno_{split}.mat").is_file():
            return file
    for folder in _JSON_FOLDERS:
        if (found := path / folder / split).is_dir():
            return found
    return None


def read_mat(path: str | os.PathLike) -> tuple[list[str], list[People]]:
    """Reads the official `anno_train.mat` or `anno_val.mat`.

    Args:
        path: Path of the file, which holds a cell array `anno_train_aligned` (or that of
            another split) of structs with `cityname`, `im_name` and `bbs`. A row of `bbs`
            is [label, x, y, width, height, id, then x, y, width and height of the visible
            part].

    Returns:
        (names of the images as "city/name", a `People` for each).

    Raises:
        ValueError: If this is another kind of file, or an entry is malformed; the message
            gives its index.
    """
    with open(path, "rb") as file:
        try:
            content = scipy.io.loadmat(file)
        # For damaged files SciPy and zlib raise many errors, even plain `Exception`s.
        except Exception as error:
            raise ValueError(
                f"{path} is not a MATLAB file, or damaged, or of version 7.3: {error}. "
                "Download it again, or save it in MATLAB with -v7"
            ) from error
    names = [name for name in content if name.startswith("anno_")]
    if len(names) != 1:
        raise ValueError(
            f"{path} must hold one variable anno_..._aligned. Received: "
            f"{[name for name in content if not name.startswith('__')]}"
        )
    images, people, left_out = [], [], []
    for index, cell in enumerate(content[names[0]].ravel()):
        place = f"{names[0]}[{index}]"
        try:
            entry = cell.ravel()[0]
            city, name = (str(entry[key].ravel()[0]) for key in ("cityname", "im_name"))
            # The integer type varies between images, and width * height could overflow.
            rows = entry["bbs"].astype("float64").reshape(-1, 10)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{path}: {place} must have cityname, im_name and bbs with 10 columns: "
                f"{error}"
            ) from error
        images.append(f"{city}/{name}")
        other, boxes, shown = rows[:, 0] != _PEDESTRIAN, rows[:, 1:5], rows[:, 6:]
        sound = _sound(boxes, shown)
        left_out += [f"{place}.bbs[{row}]" for row in np.flatnonzero(~sound)]
        people.append(_people(index, other[sound], boxes[sound], shown[sound]))
    records.warn_of_left_out(path, _WITHOUT_AREA, left_out)
    return images, people


def _read_folder(folder):
    """Reads CITY/*_gtBboxCityPersons.json: (names "city/name", a `People` for each)."""
    files = sorted(folder.glob("*/*_gtBboxCityPersons.json"))
    # Hidden ones are what macOS leaves beside files, and the checkpoints of notebooks.
    files = [x for x in files if not x.name.startswith(".") and x.parent.name[0] != "."]
    if not files:
        raise FileNotFoundError(f"{folder} must hold CITY/*_gtBboxCityPersons.json")
    images = [
        f"{file.parent.name}/"
        + file.name.replace("_gtBboxCityPersons.json", "_leftImg8bit.png")
        for file in files
    ]
    return images, [read_json(file, index) for index, file in enumerate(files)]


def read_json(path: str | os.PathLike, index: int = 0) -> People:
    """Reads an official `*_gtBboxCityPersons.json`.

    Args:
        path: Path of the file.
        index: Index of the image in its split.

    Raises:
        ValueError: If a record is malformed; the message gives its index.
    """
    (objects,) = records.lists_of(records.content_of(path), path, "objects")
    others, boxes, shown = [], [], []
    for number, record in enumerate(objects):
        with records.naming(path, f"objects[{number}]", record):
            others.append(record.get("label") != _PEDESTRIAN_LABEL)
            boxes.append(records.box_or_none(record) or _NO_BOX)
            shown.append(records.box_or_none(record, "bboxVis") or _NO_BOX)
    boxes, shown = (np.reshape(x, (-1, 4)).astype("float64") for x in (boxes, shown))
    sound = _sound(boxes, shown)
    left_out = [f"objects[{number}]" for number in np.flatnonzero(~sound)]
    records.warn_of_left_out(path, _WITHOUT_AREA, left_out)
    return _people(index, np.array(others, bool)[sound], boxes[sound], shown[sound])


def _sound(boxes, shown):
    """Which boxes (N, 4), [x, y, width, height], have an area and a visible part."""
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(shown).all(axis=1)
    return finite & (boxes[:, 2:] > 0).all(axis=1)


def _people(index, ignored, boxes, shown):
    """`People` with the image id of the official val_gt.json: 1 + index in the split."""
    visibility = shown[:, 2:].prod(axis=1) / boxes[:, 2:].prod(axis=1)
    return People(boxes, visibility, ignored, image_id=1 + index)
