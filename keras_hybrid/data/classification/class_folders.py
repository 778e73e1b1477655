"""A folder of class folders for each split, as in ImageNet."""

import os
import pathlib

import tensorflow as tf

from keras_hybrid.data.classification.dataset import ClassificationDataset
from keras_hybrid.data.folders import SUFFIXES, images_in, listed, visible
from keras_hybrid.data.sources import EncodedSource

LAYOUT = (
    "a folder with train/CLASS/*.jpg and val/CLASS/*.jpg (or test/, validation/; also "
    ".png and other formats)"
)
_TEST_FOLDERS = "val", "validation", "test"  # test/ last: ImageNet's has no labels


def is_at(path: pathlib.Path) -> bool:
    """Whether a folder has training images and test images."""
    return all(
        any((path / name).is_dir() for name in names)
        for names in (["train"], _TEST_FOLDERS)
    )


def open_at(path: pathlib.Path) -> ClassificationDataset:
    """Opens a folder of this layout; of the images only a few are read.

    Raises:
        OSError, ValueError: It cannot be used; the message says why.
    """
    test = next(path / name for name in _TEST_FOLDERS if (path / name).is_dir())
    train_files, test_files = _class_files(path / "train"), _class_files(test)
    if unknown := sorted(test_files.keys() - train_files.keys()):
        raise ValueError(
            f"Class folders of {test} must also be in {path / 'train'}. Received: "
            f"{listed(unknown)}"
        )
    if empty := [name for name, files in train_files.items() if not files]:
        raise ValueError(
            f"Class folders of {path / 'train'} must hold images, {' '.join(SUFFIXES)}. "
            f"Received: {listed(empty)} without any"
        )
    names = tuple(train_files)
    if odd := [name for name in names if not _is_label(name)]:
        raise ValueError(
            f"Class folders of {path / 'train'} must have names in UTF-8, each of one "
            f"line. Received: {listed(odd)}"
        )
    if len(names) < 2:
        raise ValueError(
            f"{path / 'train'} must hold folders of at least two classes. Received: "
            f"{names[0]!r} alone"
        )
    train, test = (_source(files, names) for files in (train_files, test_files))
    return ClassificationDataset(train, test, names, None)


def _class_files(folder):
    """Class name -> sorted paths of its images."""
    names = [name for name in visible(folder) if (folder / name).is_dir()]
    names = _in_order(names)
    found = images_in([os.path.join(folder, name) for name in names])
    if not any(found):
        raise FileNotFoundError(
            f"{folder} must hold class folders of images, {' '.join(SUFFIXES)}. "
            f"Received: {listed(visible(folder))}. Expected {LAYOUT}"
        )
    return {
        name: [os.path.join(folder, name, file) for file in files]
        for name, files in zip(names, found)
    }


def _is_label(name):
    """Whether a name can be a line of a text file."""
    try:
        return name.encode().decode().splitlines() == [name]
    except UnicodeEncodeError:  # bytes that are no UTF-8
        return False


def _in_order(names):
    """Sorts names, as integers if all of them are: 2 before 10."""
    if all(name.removeprefix("-").isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _source(classes, names):
    """A source of the files in `_class_files`, labelled by position in `names`."""
    label_of = {name: label for label, name in enumerate(names)}
    pairs = [
        (os.fsencode(file), label_of[name])
        for name, files in classes.items()
        for file in files
    ]
    with tf.device("CPU"):
        files, labels = (tf.constant(column) for column in zip(*pairs))

    def examples(seed):
        order = tf.data.Dataset.range(len(pairs))
        if seed is not None:
            order = order.shuffle(len(pairs), seed)
        return order.map(lambda index: (files[index], files[index], labels[index]))

    source = EncodedSource(examples, len(pairs), tf.io.read_file)
    source.check_readable()
    return source
