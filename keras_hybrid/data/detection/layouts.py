"""Layouts of detection data that `--data_dir` accepts."""

import os

from absl import logging

from keras_hybrid.data.detection import citypersons, coco
from keras_hybrid.data.detection.dataset import DetectionDataset
from keras_hybrid.data.folders import find_layout

_LAYOUTS = citypersons, coco


def open_dataset(
    data_dir: str | os.PathLike,
    min_height: float = 50,
    group_aspect: float | None = None,
    category: str | None = None,
) -> DetectionDataset:
    """Opens CityPersons in a Cityscapes tree, or folders with COCO-style JSON files.

    Annotations are read; images are not decoded yet.

    Args:
        data_dir: Path of the data set.
        min_height: Height in pixels below which people are ignored in training.
        group_aspect: Smallest ratio of width to height of boxes that are ignored as
            groups in training and test, in the COCO layout only; None to ignore none.
        category: Name or id of the category to detect, in the COCO layout only; by
            default the one named person or pedestrian.

    Returns:
        A `DetectionDataset`.

    Raises:
        FileNotFoundError, ValueError: If there is no such data, or the training images
            have no people; the message gives the reason.
    """
    layout, path = find_layout(data_dir, _LAYOUTS)
    if layout is coco:
        data = coco.open_at(path, min_height, group_aspect, category)
    elif category is None:
        data = citypersons.open_at(path, min_height)
    else:
        raise ValueError(
            "`category` must be None for CityPersons, whose category is pedestrian. "
            f"Received: category={category}"
        )
    return _with_people(data, path)


def _with_people(data, path):
    """Returns `data`, whose training images must have people that are not ignored."""
    train, test = (
        [one for of_image in source.people for one in of_image.ignored]
        for source in (data.train, data.test)
    )
    if all(train):
        raise ValueError(
            "The training images must have boxes of people that are not ignored. "
            f"Received: {len(data.train)} images of {path} with {len(train)} boxes of "
            f"category {data.train.category_id}, all of them ignored"
        )
    if all(test):
        logging.warning(
            "The %d test images of %s have %d boxes of category %s, all of them ignored: "
            "there will be no miss rates",
            *(len(data.test), path, len(test), data.test.category_id),
        )
    return data
