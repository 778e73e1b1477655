"""A data set for pedestrian detection, opened from where `--data_dir` points."""

import pathlib

from absl import logging

from keras_hybrid.data import citypersons, coco_boxes, coco_files


def open_pedestrians(data_dir, min_height=50, group_aspect=None, category=None):
    """Opens CityPersons on a Cityscapes tree, or folders with JSON files as COCO's.

    Annotations are read; of the images it is only looked up whether they exist.

    Args:
        data_dir: Path.
        min_height: People lower than that, in pixels, are ignored in training.
        group_aspect: Boxes of at least this width per height are ignored, as groups, in
            training and test; for COCO's layout alone. None for none.
        category: Name or id of the category to find, for COCO's layout alone; by default
            the one named person or pedestrian.

    Returns:
        A `Pedestrians`.

    Raises:
        FileNotFoundError, ValueError: There is no such data, or nobody in the training
            images; the message says why.
    """
    path = pathlib.Path(data_dir).expanduser()
    expected = f"Expected {citypersons.LAYOUT}; or {coco_files.LAYOUT}"
    if not path.is_dir():
        raise FileNotFoundError(
            f"`data_dir` must be a folder. Received: data_dir={data_dir}. {expected}"
        )
    if citypersons.is_at(path):
        if category is not None:
            raise ValueError(
                "`category` must be None for CityPersons, whose pedestrians are found. "
                f"Received: category={category}"
            )
        return _with_people(citypersons.open_at(path, min_height), path)
    if coco_boxes.is_at(path):
        data = coco_boxes.open_at(path, min_height, group_aspect, category)
        return _with_people(data, path)
    found = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    raise FileNotFoundError(
        f"`data_dir` must have a known layout. Received: data_dir={data_dir} with "
        f"{', '.join(found[:5]) or 'nothing'}. {expected}"
    )


def _with_people(data, path):
    """`data`, whose training images must show somebody to learn from."""
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
