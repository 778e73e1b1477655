"""Pedestrians in the layout of COCO: one JSON file and one folder of images a split."""

import numpy as np
from absl import logging

from keras_hybrid import records
from keras_hybrid.data.people import Pedestrians, People, source_of_files, without_area

LAYOUT = (
    "COCO's: train/ with images and one *train*.json, and test/ (or val/) with images "
    "and one *test*.json (or *val*.json)"
)
_TESTS = "test", "val"


def is_at(path):
    """Whether a folder has a split of this layout."""
    return _file(path, "train") is not None


def open_at(path, min_height, group_aspect=None):
    """The `Pedestrians` in a folder of this layout.

    Args:
        path: Of the folder.
        min_height: See `PeopleSource`.
        group_aspect: Boxes of at least this width per height are ignored, as groups; None
            for none.
    """
    tests = [split for split in _TESTS if _file(path, split)]
    if not tests:
        raise FileNotFoundError(
            f"{path} must hold annotations of a split for the test. Expected {LAYOUT}"
        )
    return Pedestrians(
        *(_split(path, s, min_height, group_aspect) for s in ("train", tests[0]))
    )


def _file(path, split):
    if not (path / split).is_dir():
        return None
    return next(iter(sorted(path.glob(f"*{split}*.json"))), None)


def _split(path, split, min_height, group_aspect):
    names, people = read(_file(path, split), group_aspect)
    paths = [path / split / name for name in names]
    return source_of_files(paths, people, min_height=min_height)


def read(path, group_aspect=None):
    """A JSON file: `"images"` with an `"id"` and `"file_name"`, and `"annotations"`.

    Annotations are what `metrics.log_average_miss_rate` takes. Of category 1 are the
    people; `"iscrowd"` and `"ignore"` are ignored. Boxes without an area or outside of
    their image are left out, with a warning.

    Returns:
        (names of the images, a `People` of each), in the order of the ids.

    Raises:
        ValueError: A record is malformed; the message has its index.
    """
    content = records.content_of(path)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise ValueError(f'{path} must be a dictionary with "images" and "annotations"')
    images = {}
    for index, record in enumerate(content["images"]):
        with records.naming(path, f"images[{index}]", record):
            name = records.identity(record, _name_key(record))
            images[records.identity(record, "id")] = record, str(name), []
    for index, record in enumerate(content["annotations"]):
        with records.naming(path, f"annotations[{index}]", record):
            if record.get("category_id", 1) != 1:
                continue
            flags = [records.number(record, key, 0) for key in ("ignore", "iscrowd")]
            visibility = records.number(record, "vis_ratio", 1.0)
            image = images[records.identity(record, "image_id", images)]
            image[2].append((*records.box(record), visibility, any(flags)))
    names, people, nowhere = [], [], []
    # Ids may be numbers or texts.
    for identity in sorted(images, key=lambda one: (isinstance(one, str), one)):
        record, name, rows = images[identity]
        rows = np.reshape(rows, (-1, 6)).astype("float64")
        nothing = without_area(rows[:, :4], _size(record))
        nowhere += [name] * int(nothing.sum())
        rows = rows[~nothing]
        ignored = rows[:, 5] > 0
        if group_aspect is not None:
            ignored |= rows[:, 2] >= group_aspect * rows[:, 3]
        names.append(name)
        people.append(People(rows[:, :4], rows[:, 4], ignored))
    if nowhere:
        logging.warning(
            "%s: leaving out %d boxes without an area or outside of their image, such as "
            "in %s",
            path,
            len(nowhere),
            nowhere[0],
        )
    return names, people


def _name_key(record):
    """Copies of CityPersons' val_gt.json have either."""
    return "file_name" if "file_name" in record else "im_name"


def _size(record):
    return (record["height"], record["width"]) if "height" in record else None
