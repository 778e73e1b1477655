"""The layouts of detection data that `--data_dir` may point to."""

from absl import logging

from keras_hybrid.data.detection import citypersons, coco
from keras_hybrid.data.folders import find_layout

_LAYOUTS = citypersons, coco


def open_dataset(data_dir, min_height=50, group_aspect=None, category=None):
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
        A `DetectionDataset`.

    Raises:
        FileNotFoundError, ValueError: There is no such data, or nobody in the training
            images; the message says why.
    """
    layout, path = find_layout(data_dir, _LAYOUTS)
    if layout is coco:
        data = coco.open_at(path, min_height, group_aspect, category)
    elif category is None:
        data = citypersons.open_at(path, min_height)
    else:
        raise ValueError(
            "`category` must be None for CityPersons, whose pedestrians are found. "
            f"Received: category={category}"
        )
    return _with_people(data, path)


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
