"""A data set for classification, opened from where `--data_dir` points."""

import dataclasses
import os
import pathlib

import tensorflow as tf

from keras_hybrid.data import class_names, npz
from keras_hybrid.data.folders import SUFFIXES, images_in, visible
from keras_hybrid.data.sources import ArraySource, EncodedSource

_LAYOUTS = (
    "an .npz file with x_train, y_train, x_test, y_test; or a folder with "
    "train/CLASS/*.jpg and val/CLASS/*.jpg (or test/, validation/; .png and others too); "
    "or a tensorflow-datasets folder with imagenet2012/VERSION/"
)
_TEST_FOLDERS = "val", "validation", "test"  # ImageNet's own test/ has no labels: last
_SHUFFLE_BUFFER = 16384  # encoded ImageNet images, 1.8 GB; the shards are shuffled too


@dataclasses.dataclass(frozen=True)
class ImageClasses:
    """Training and test images of the same classes; a label is an index of a name."""

    train: ArraySource | EncodedSource
    test: ArraySource | EncodedSource
    class_names: tuple[str, ...]
    image_size: int | None
    """Height and width in pixels; None for photographs of any size."""


def open_images(data_dir):
    """Opens an `.npz` file, a folder of class folders, or a prepared TFDS `imagenet2012`.

    Images are not read yet, except those of an `.npz`. Nothing is downloaded.

    Args:
        data_dir: Path.

    Returns:
        An `ImageClasses`.

    Raises:
        FileNotFoundError, ValueError: There is no such data; the message shows the
            expected layout.
    """
    path = pathlib.Path(data_dir).expanduser()
    if path.is_file():
        return _open_npz(path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"`data_dir` must exist. Received: data_dir={data_dir}. Expected {_LAYOUTS}"
        )
    if (path / "imagenet2012").is_dir() or _archives(path):
        return _open_tfds(path)
    return _open_folders(path)


def _open_npz(path):
    (x_train, y_train), (x_test, y_test) = npz.load(path)
    names = tuple(str(label) for label in range(y_train.max() + 1))
    train, test = ArraySource(x_train, y_train), ArraySource(x_test, y_test)
    return ImageClasses(train, test, names, x_train.shape[1])


def _open_folders(path):
    tests = [path / name for name in _TEST_FOLDERS if (path / name).is_dir()]
    if not (path / "train").is_dir() or not tests:
        raise FileNotFoundError(
            f"`data_dir` must have a known layout. Received: data_dir={path} with "
            f"{_some(visible(path))}. Expected {_LAYOUTS}"
        )
    train, test = _class_files(path / "train"), _class_files(tests[0])
    if unknown := sorted(test.keys() - train.keys()):
        raise ValueError(
            f"Class folders of {tests[0]} must also be in {path / 'train'}. Received: "
            f"{_some(unknown)}"
        )
    if empty := [name for name, files in train.items() if not files]:
        raise ValueError(
            f"Class folders of {path / 'train'} must hold images, {' '.join(SUFFIXES)}. "
            f"Received: {_some(empty)} without any"
        )
    names = tuple(train)
    if len(names) < 2:
        raise ValueError(
            f"{path / 'train'} must hold folders of at least two classes. Received: "
            f"{names[0]!r} alone"
        )
    return ImageClasses(_files(train, names), _files(test, names), names, None)


def _class_files(folder):
    """Class name -> sorted paths of its images."""
    names = [name for name in visible(folder) if (folder / name).is_dir()]
    names = class_names.in_order(names)
    found = images_in([os.path.join(folder, name) for name in names])
    if not any(found):
        raise FileNotFoundError(
            f"{folder} must hold class folders of images, {' '.join(SUFFIXES)}. "
            f"Received: {_some(visible(folder))}. Expected {_LAYOUTS}"
        )
    return {
        name: [os.path.join(folder, name, file) for file in files]
        for name, files in zip(names, found)
    }


def _files(classes, names):
    """A source of the files of `_class_files`, labelled by position in `names`."""
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

    return EncodedSource(examples, len(pairs), tf.io.read_file)


def _open_tfds(path):
    versions = sorted((path / "imagenet2012").glob("*/dataset_info.json"))
    if not versions:
        manual = _archives(path)[0].parent if _archives(path) else "FOLDER_OF_THE_TARS"
        raise FileNotFoundError(
            f"imagenet2012 must be prepared in data_dir={path}. Run: tfds build "
            f"imagenet2012 --data_dir={path} --manual_dir={manual}"
        )
    import tensorflow_datasets as tfds  # seconds, and only needed here

    builder = tfds.builder_from_directory(versions[-1].parent)
    if missing := {"train", "validation"} - builder.info.splits.keys():
        raise ValueError(
            f"{versions[-1].parent} must have the splits train and validation. It lacks "
            f"{_some(sorted(missing))}: prepare it with both archives"
        )
    train, test = (_records(tfds, builder, split) for split in ("train", "validation"))
    return ImageClasses(train, test, tuple(builder.info.features["label"].names), None)


def _records(tfds, builder, split):
    def examples(seed):
        records = builder.as_dataset(
            split,
            shuffle_files=seed is not None,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(shuffle_seed=seed, try_autocache=False),
        )
        if seed is not None:
            records = records.shuffle(_SHUFFLE_BUFFER, seed)
        return records.map(
            lambda record: (
                record["file_name"],
                record["image"],
                tf.cast(record["label"], "int32"),
            )
        )

    return EncodedSource(examples, builder.info.splits[split].num_examples)


def _archives(path):
    """ImageNet's archives as downloaded, which tensorflow-datasets prepares from."""
    folders = path, path / "downloads" / "manual", path / "manual"
    return [tar for folder in folders for tar in folder.glob("ILSVRC2012_img_*.tar")]


def _some(names):
    """A few of many names for a message."""
    shown = ", ".join(map(repr, names[:5])) or "nothing"
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
