"""Images and labels from an `.npz` file, checked before training."""

import os
import pathlib

import numpy as np

from keras_hybrid.data.classification.dataset import ClassificationDataset
from keras_hybrid.data.sources import ArraySource

LAYOUT = "an .npz file with x_train, y_train, x_test, y_test"
KEYS = "x_train", "y_train", "x_test", "y_test"


def is_at(path: pathlib.Path) -> bool:
    """Whether a path is a file."""
    return path.is_file()


def open_at(path: pathlib.Path) -> ClassificationDataset:
    """Opens a file of this layout as a `ClassificationDataset`; see `load`."""
    (x_train, y_train), (x_test, y_test) = load(path)
    names = tuple(str(label) for label in range(y_train.max() + 1))
    train, test = ArraySource(x_train, y_train), ArraySource(x_test, y_test)
    return ClassificationDataset(train, test, names, x_train.shape[1])


def load(
    path: str | os.PathLike,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Reads and checks `x_train`, `y_train`, `x_test` and `y_test`.

    Images are uint8 (N, H, H, 3), or grey (N, H, H) or (N, H, H, 1), which become RGB.
    Labels are integers (N,) or (N, 1); the training labels take all values 0..n-1.

    Args:
        path: Path of the file. Nothing in it is unpickled.

    Returns:
        (x_train, y_train), (x_test, y_test): uint8 (N, H, H, 3) and int32 (N,).

    Raises:
        ValueError: If the file is anything else.
    """
    arrays = _read(path)
    for key in KEYS:
        check = _check_images if key.startswith("x") else _check_labels
        arrays[key] = check(path, key, arrays[key])
    x_train, y_train, x_test, y_test = (arrays[key] for key in KEYS)
    for part in ("train", "test"):
        images, labels = len(arrays[f"x_{part}"]), len(arrays[f"y_{part}"])
        if images != labels or not images:
            raise ValueError(
                f"`x_{part}` and `y_{part}` of {path} must be equally long and not "
                f"empty. Received: {images} images and {labels} labels"
            )
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"`x_train` and `x_test` of {path} must have images of the same size. "
            f"Received: shapes {x_train.shape} and {x_test.shape}"
        )
    classes = len(np.unique(y_train))
    if classes < 2:
        raise ValueError(
            f"`y_train` of {path} must have at least two classes. Received: "
            f"{len(y_train)} labels, all of them {y_train[0]}"
        )
    _check_range(path, "y_train", y_train, classes)
    _check_range(path, "y_test", y_test, classes)
    return (x_train, y_train.astype("int32")), (x_test, y_test.astype("int32"))


def _read(path):
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file]
            arrays = {key: file[key] for key in KEYS if key in file}
    except Exception as error:  # NumPy, zipfile and zlib each raise their own errors
        raise ValueError(
            f"`data_dir` must be an .npz file of plain arrays {', '.join(KEYS)}. "
            f"Received: data_dir={path}, for which NumPy reports: {error}"
        ) from error
    if missing:
        raise ValueError(
            f"{path} must hold the arrays {', '.join(KEYS)}. "
            f"It lacks {', '.join(missing)}"
        )
    return arrays


def _check_images(path, key, images):
    """Checks images and returns them as RGB."""
    grey = images.ndim == 3 or images.shape[3:] == (1,)
    rgb = images.ndim == 4 and images.shape[3] == 3
    square = images.ndim > 2 and images.shape[1] == images.shape[2] > 0
    if images.dtype != np.uint8 or not (grey or rgb) or not square:
        raise ValueError(
            f"`{key}` of {path} must be uint8 of shape (N, H, H, 3), or (N, H, H) for "
            f"grey images, in 0..255. Received: {images.dtype} of shape {images.shape}"
        )
    if rgb:
        return images
    return np.repeat(images.reshape(*images.shape[:3], 1), 3, axis=3)


def _check_labels(path, key, labels):
    """Checks labels and returns them as (N,)."""
    column = labels.ndim == 2 and labels.shape[1] == 1  # as Keras loads CIFAR-10
    if labels.dtype.kind not in "iu" or not (labels.ndim == 1 or column):
        raise ValueError(
            f"`{key}` of {path} must be integers of shape (N,), one class each. "
            f"Received: {labels.dtype} of shape {labels.shape}"
        )
    return labels.reshape(-1)


def _check_range(path, key, labels, classes):
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise ValueError(
            f"`{key}` of {path} has labels out of range: they must be 0..{classes - 1}, "
            f"as `y_train` has {classes} different ones. Received: "
            f"{key}[{wrong[0]}]={labels[wrong[0]]}"
        )
