"""Pedestrians in COCO-style JSON files: one file and one folder of images per split."""

import functools
import numbers
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging
from PIL import ExifTags, Image

from keras_hybrid.data.detection import coco_files
from keras_hybrid.data.detection.dataset import (
    DetectionDataset,
    People,
    source_of_files,
    without_area,
)
from keras_hybrid.metrics import coco_categories, records

LAYOUT = (
    "COCO-style: a JSON file with train in its name and one with test or val, in the "
    "folder, in annotations/ or beside the images, and images in train/ and test/ (or "
    "val/), also within images/"
)
_TESTS = "test", "val"
_UNUSABLE = "boxes without an area, an image or a category, or outside their image"
_TURNED = 5, 6, 7, 8  # EXIF orientations that swap height and width


def is_at(path: pathlib.Path) -> bool:
    """Whether a folder has the annotations of a training split in this layout."""
    return bool(coco_files.annotations(path, "train"))


def open_at(
    path: pathlib.Path,
    min_height: float,
    group_aspect: float | None = None,
    category: str | None = None,
) -> DetectionDataset:
    """Opens a folder of this layout as a `DetectionDataset`.

    Args:
        path: Path of the folder.
        min_height: As in `DetectionSource`.
        group_aspect: Smallest ratio of width to height of boxes that are ignored as
            groups; None to ignore none.
        category: As in `read`.
    """
    tests = [split for split in _TESTS if coco_files.annotations(path, split)]
    if not tests:
        raise FileNotFoundError(
            f"{path} must hold annotations of a test split. Expected {LAYOUT}"
        )
    return DetectionDataset(
        *(
            _split(path, split, min_height, group_aspect, category)
            for split in ("train", tests[0])
        )
    )


def _split(path, split, min_height, group_aspect, category):
    file, *others = coco_files.annotations(path, split)
    if others:
        logging.warning("Reading %s, and not %s", file, others[0])
    folders = coco_files.image_folders(path, split)
    names, people = read(file, group_aspect, category, folders)
    paths = [coco_files.image_file(folders, name) for name in names]
    name_of = {}
    for name, image in zip(names, paths):
        if name_of.setdefault(image, name) != name:
            raise ValueError(
                f"{file}: each image must have a file of its own. Received: "
                f"{name_of[image]!r} and {name!r}, for which there is only {image}"
            )
    return source_of_files(paths, people, min_height=min_height)


def read(
    path: str | os.PathLike,
    group_aspect: float | None = None,
    category: str | None = None,
    folders: Sequence[pathlib.Path] | None = None,
) -> tuple[list[str], list[People]]:
    """Reads `"images"` with an `"id"` and a `"file_name"`, and their `"annotations"`.

    Annotations are those that `metrics.log_average_miss_rate` takes. People are the
    category named person or pedestrian, in the singular or plural; in a file without
    `"categories"`, category 1. Other categories are skipped; boxes with `"iscrowd"` or
    `"ignore"` are ignored. Boxes that are null, empty, without an area or outside their
    image are left out with a warning, and so are images that are hidden files. The size
    of an image is read from its file if the JSON does not state it or a box would lie
    outside.

    Args:
        path: Path of the JSON file.
        group_aspect: As in `open_at`.
        category: Name or id of the category that counts as people.
        folders: Folders of the images, see `coco_files.image_file`; by default the folder
            of the JSON file.

    Returns:
        (names of the images, a `People` for each), in the order of the image ids.

    Raises:
        ValueError: If a record is malformed (the message gives its index), two images
            have the same id, or not exactly one category counts as people.
    """
    path = pathlib.Path(path)
    content = records.content_of(path)
    images, annotations = records.lists_of(content, path, "images", "annotations")
    categories = content.get("categories")
    category_id = coco_categories.id_of_people(path, categories, annotations, category)
    images = records.images_of(path, images, with_names=True)
    rows, left_out = _rows(path, annotations, images, categories, category_id)
    names, people, hidden = [], [], []
    for image_id in sorted(images, key=records.order_of):
        name = str(records.name_of_image(images[image_id]))
        if coco_files.is_hidden(name):
            hidden.append(name)
            continue
        places, of_image = zip(*rows[str(image_id)]) if rows[str(image_id)] else ((), ())
        of_image = np.reshape(of_image, (-1, 6)).astype("float64")
        find = functools.partial(coco_files.image_file, folders or [path.parent], name)
        empty = _without_area(of_image[:, :4], images[image_id], find)
        left_out += [f"{places[i]} of {name}" for i in np.flatnonzero(empty)]
        of_image = of_image[~empty]
        ignored = of_image[:, 5] > 0
        if group_aspect is not None:
            ignored |= of_image[:, 2] >= group_aspect * of_image[:, 3]
        names.append(name)
        people.append(
            People(of_image[:, :4], of_image[:, 4], ignored, image_id, category_id)
        )
    records.warn_of_left_out(path, _UNUSABLE, left_out)
    records.warn_of_left_out(path, "images that are hidden files", hidden)
    return names, people


def _rows(path, annotations, images, categories, category_id):
    """The annotations of people, by image.

    Returns:
        ({str(id of the image): [(place, [x, y, width, height, visibility, ignored])]},
        places of the annotations that are left out).
    """
    rows, left_out = {str(image_id): [] for image_id in images}, []
    wanted = str(category_id)
    for index, record in enumerate(annotations):
        place = f"annotations[{index}]"
        with records.naming(path, place, record):
            if records.is_empty(record, "category_id"):
                left_out.append(place)
                continue
            given = coco_categories.id_in(record, categories, category_id)
            if str(given) != wanted:
                continue
            box = records.box_or_none(record)
            if box is None or records.is_empty(record, "image_id"):
                left_out.append(place)
                continue
            flags = [records.number(record, key, 0) for key in ("ignore", "iscrowd")]
            visibility = records.number(record, "vis_ratio", 1.0)
            image_id = records.identity(record, "image_id")
            if str(image_id) not in rows:
                raise records.MalformedError('have an "image_id" of one of the images')
            rows[str(image_id)].append((place, (*box, visibility, any(flags))))
    return rows, left_out


def _without_area(boxes, record, find):
    """`dataset.without_area`, given the record of the image instead of its size.

    Args:
        boxes: Boxes of one image (N, 4), [x, y, width, height].
        record: Record of the image. The size that it states may be missing, wrong, or
            that of the image before it is turned upright.
        find: Function that returns the path of the image.
    """
    empty, stated = without_area(boxes, None), _stated_size(record)
    if empty.all() or (stated and not without_area(boxes[~empty], stated).any()):
        return empty
    either = (max(stated),) * 2 if stated else None
    return without_area(boxes, _upright_size(find()) or either)


def _stated_size(record):
    size = record.get("height"), record.get("width")
    known = all(isinstance(pixels, numbers.Real) and pixels > 0 for pixels in size)
    return size if known else None


def _upright_size(path):
    """(height, width) of the upright image; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            # To look for EXIF that is not there, Pillow would decode the whole image.
            exif = image.getexif() if "exif" in image.info else {}
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    turned = exif.get(ExifTags.Base.Orientation) in _TURNED
    return (width, height) if turned else (height, width)
