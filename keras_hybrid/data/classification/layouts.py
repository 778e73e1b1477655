"""Layouts of classification data that `--data_dir` accepts."""

import os

from keras_hybrid.data.classification import class_folders, imagenet2012, npz
from keras_hybrid.data.classification.dataset import ClassificationDataset
from keras_hybrid.data.folders import find_layout

_LAYOUTS = npz, imagenet2012, class_folders


def open_dataset(data_dir: str | os.PathLike) -> ClassificationDataset:
    """Opens an `.npz` file, a folder of class folders, or a prepared TFDS `imagenet2012`.

    Images are not read yet, except those in an `.npz` file. Nothing is downloaded.

    Args:
        data_dir: Path of the data set.

    Returns:
        A `ClassificationDataset`.

    Raises:
        FileNotFoundError, ValueError: If there is no such data; the message describes
            the expected layout.
    """
    layout, path = find_layout(data_dir, _LAYOUTS, what="an .npz file or a folder")
    return layout.open_at(path)
