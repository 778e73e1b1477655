"""CityPersons (Zhang et al. 2017): people on the images of Cityscapes."""

import numpy as np
import scipy.io

from keras_hybrid import records
from keras_hybrid.data.people import Pedestrians, People, source_of_files

LAYOUT = (
    "CityPersons: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with "
    "annotations/anno_SPLIT.mat, or with "
    "gtBboxCityPersons/SPLIT/CITY/*_gtBboxCityPersons.json, for the splits train and val"
)
# Everybody else is ignored: riders, the sitting, other persons, groups, and "ignore".
_PEDESTRIAN, _PEDESTRIAN_LABEL = 1, "pedestrian"
_MAT_FOLDERS = ".", "annotations"
_JSON_FOLDERS = "gtBboxCityPersons", "gtBbox_cityPersons_trainval/gtBboxCityPersons"


def is_at(path):
    """Whether a folder looks like Cityscapes with CityPersons' annotations."""
    return (path / "leftImg8bit").is_dir() and bool(_annotations(path, "train"))


def open_at(path, min_height):
    """The `Pedestrians` in a folder of this layout; validation is for the test."""
    return Pedestrians(*(_split(path, split, min_height) for split in ("train", "val")))


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
    """The `.mat` file or the folder of JSON files, or None."""
    for folder in _MAT_FOLDERS:
        if (file := path / folder / f"anno_{split}.mat").is_file():
            return file
    for folder in _JSON_FOLDERS:
        if (found := path / folder / split).is_dir():
            return found
    return None


def read_mat(path):
    """The official `anno_train.mat` or `anno_val.mat`.

    Args:
        path: Of the file, with a cell array `anno_train_aligned` (or of another split) of
            structs `cityname`, `im_name` and `bbs`: [label, x, y, width, height, id, then
            x, y, width and height of the visible part].

    Returns:
        ("city/name" of the images, a `People` of each).

    Raises:
        ValueError: It is no such file, or an entry is malformed; the message has its
            index.
    """
    try:
        content = scipy.io.loadmat(path)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(f"{path} is no MATLAB file: {error}") from error
    names = [name for name in content if name.startswith("anno_")]
    if len(names) != 1:
        raise ValueError(
            f"{path} must hold one variable anno_..._aligned. Received: "
            f"{[name for name in content if not name.startswith('__')]}"
        )
    images, people = [], []
    for index, cell in enumerate(content[names[0]].ravel()):
        try:
            entry = cell.ravel()[0]
            city, name = (str(entry[key].ravel()[0]) for key in ("cityname", "im_name"))
            # The integers' type changes from image to image, and w * h would overflow.
            rows = entry["bbs"].astype("float64").reshape(-1, 10)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{path}: {names[0]}[{index}] must have cityname, im_name and bbs with "
                f"10 columns: {error}"
            ) from error
        images.append(f"{city}/{name}")
        people.append(_people(rows[:, 0] != _PEDESTRIAN, rows[:, 1:5], rows[:, 6:10]))
    return images, people


def _read_folder(folder):
    """All CITY/*_gtBboxCityPersons.json: ("city/name" of the images, their `People`)."""
    images, people = [], []
    for file in sorted(folder.glob("*/*_gtBboxCityPersons.json")):
        name = file.name.replace("_gtBboxCityPersons.json", "_leftImg8bit.png")
        images.append(f"{file.parent.name}/{name}")
        people.append(read_json(file))
    if not images:
        raise FileNotFoundError(f"{folder} must hold CITY/*_gtBboxCityPersons.json")
    return images, people


def read_json(path):
    """The `People` of an official `*_gtBboxCityPersons.json`.

    Raises:
        ValueError: A record is malformed; the message has its index.
    """
    content = records.content_of(path)
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        raise ValueError(f'{path} must be a dictionary with a list "objects"')
    others, boxes, visible = [], [], []
    for index, record in enumerate(content["objects"]):
        with records.naming(path, f"objects[{index}]", record):
            others.append(record.get("label") != _PEDESTRIAN_LABEL)
            boxes.append(records.box(record))
            visible.append(records.box(record, "bboxVis"))
    boxes, visible = (np.reshape(rows, (-1, 4)) for rows in (boxes, visible))
    return _people(np.array(others, bool), boxes.astype("float64"), visible)


def _people(ignored, boxes, visible):
    """Leaves out boxes without an area."""
    area = boxes[:, 2] * boxes[:, 3]
    shown = np.divide(visible[:, 2] * visible[:, 3], area, where=area > 0, out=0 * area)
    has_area = (boxes[:, 2:] > 0).all(axis=1)
    return People(boxes[has_area], shown[has_area], ignored[has_area])
