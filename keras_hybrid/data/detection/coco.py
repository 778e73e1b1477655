"""Pedestrians in JSON files as COCO's, one and a folder of images a split."""

import functools
import numbers
import pathlib

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
    "COCO's: a JSON file with train in its name and one with test or val, in the folder, "
    "in annotations/ or beside the images, and images in train/ and test/ (or val/), "
    "also within images/"
)
_TESTS = "test", "val"
_NOWHERE = "boxes without an area, an image or a category, or outside of their image"
_TURNED = 5, 6, 7, 8  # EXIF's orientations with height and width swapped


def is_at(path):
    """Whether a folder has a split of this layout."""
    return bool(coco_files.annotations(path, "train"))


def open_at(path, min_height, group_aspect=None, category=None):
    """The `DetectionDataset` in a folder of this layout.

    Args:
        path: Of the folder.
        min_height: See `DetectionSource`.
        group_aspect: Boxes of at least this width per height are ignored, as groups; None
            for none.
        category: See `read`.
    """
    tests = [split for split in _TESTS if coco_files.annotations(path, split)]
    if not tests:
        raise FileNotFoundError(
            f"{path} must hold annotations of a split for the test. Expected {LAYOUT}"
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
                f"{file}: images must have files of their own. Received: "
                f"{name_of[image]!r} and {name!r}, for which there is only {image}"
            )
    return source_of_files(paths, people, min_height=min_height)


def read(path, group_aspect=None, category=None, folders=None):
    """A JSON file: `"images"` with an `"id"` and `"file_name"`, and `"annotations"`.

    Annotations are what `metrics.log_average_miss_rate` takes. People are the category
    named person or pedestrian, in singular or plural; in a file without `"categories"`
    category 1. Other categories are not looked at; `"iscrowd"` and `"ignore"` are
    ignored. Boxes that are null, empty, without an area or outside of their image are
    left out, with a warning; so are hidden files among the images. The size of an image
    is read from it where the file does not state it, or a box would be outside.

    Args:
        path: Of the file.
        group_aspect: See `open_at`.
        category: Name or id of a category to take for people.
        folders: Where the images are, see `coco_files.image_file`; by default the file's.

    Returns:
        (names of the images, a `People` of each), in the order of the ids.

    Raises:
        ValueError: A record is malformed, the message has its index; two images have one
            id; no category or several are people.
    """
    path = pathlib.Path(path)
    content = records.content_of(path)
    images, annotations = records.lists_of(content, path, "images", "annotations")
    categories = content.get("categories")
    category_id = coco_categories.id_of_people(path, categories, annotations, category)
    images = records.images_of(path, images, with_names=True)
    rows, nowhere = _rows(path, annotations, images, categories, category_id)
    names, people, hidden = [], [], []
    for image_id in sorted(images, key=records.order_of):
        name = str(records.name_of_image(images[image_id]))
        if coco_files.is_hidden(name):
            hidden.append(name)
            continue
        places, of_image = zip(*rows[str(image_id)]) if rows[str(image_id)] else ((), ())
        of_image = np.reshape(of_image, (-1, 6)).astype("float64")
        find = functools.partial(coco_files.image_file, folders or [path.parent], name)
        nothing = _without_area(of_image[:, :4], images[image_id], find)
        nowhere += [f"{places[i]} of {name}" for i in np.flatnonzero(nothing)]
        of_image = of_image[~nothing]
        ignored = of_image[:, 5] > 0
        if group_aspect is not None:
            ignored |= of_image[:, 2] >= group_aspect * of_image[:, 3]
        names.append(name)
        people.append(
            People(of_image[:, :4], of_image[:, 4], ignored, image_id, category_id)
        )
    records.warn_of_left_out(path, _NOWHERE, nowhere)
    records.warn_of_left_out(path, "images that are hidden files", hidden)
    return names, people


def _rows(path, annotations, images, categories, category_id):
    """({text of an image's id: [(place, [x, y, width, height, visibility, ignored])]},
    places of the annotations that are of no use)."""
    rows, nowhere = {str(image_id): [] for image_id in images}, []
    wanted = str(category_id)
    for index, record in enumerate(annotations):
        place = f"annotations[{index}]"
        with records.naming(path, place, record):
            if records.is_empty(record, "category_id"):
                nowhere.append(place)
                continue
            given = coco_categories.id_in(record, categories, category_id)
            if str(given) != wanted:
                continue
            box = records.box_or_none(record)
            if box is None or records.is_empty(record, "image_id"):
                nowhere.append(place)
                continue
            flags = [records.number(record, key, 0) for key in ("ignore", "iscrowd")]
            visibility = records.number(record, "vis_ratio", 1.0)
            image_id = records.identity(record, "image_id")
            if str(image_id) not in rows:
                raise records.MalformedError('have an "image_id" of one of the images')
            rows[str(image_id)].append((place, (*box, visibility, any(flags))))
    return rows, nowhere


def _without_area(boxes, record, find):
    """See `people.without_area`.

    Args:
        boxes: Of one image (N, 4), [x, y, width, height].
        record: Of the image, whose stated size may be missing, wrong, or that of an image
            before EXIF's orientation turns it.
        find: Returns the path of the image.
    """
    nothing, stated = without_area(boxes, None), _stated_size(record)
    if nothing.all() or (stated and not without_area(boxes[~nothing], stated).any()):
        return nothing
    either = (max(stated),) * 2 if stated else None
    return without_area(boxes, _upright_size(find()) or either)


def _stated_size(record):
    size = record.get("height"), record.get("width")
    known = all(isinstance(pixels, numbers.Real) and pixels > 0 for pixels in size)
    return size if known else None


def _upright_size(path):
    """(height, width) of an image as EXIF orients it; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            # Asked for EXIF that it does not have, Pillow decodes the image.
            exif = image.getexif() if "exif" in image.info else {}
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    turned = exif.get(ExifTags.Base.Orientation) in _TURNED
    return (width, height) if turned else (height, width)
