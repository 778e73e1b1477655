"""ImageNet as prepared by tensorflow-datasets."""

import pathlib

import tensorflow as tf

from keras_hybrid.data.classification.dataset import ClassificationDataset
from keras_hybrid.data.folders import listed
from keras_hybrid.data.sources import EncodedSource

LAYOUT = "a tensorflow-datasets folder with imagenet2012/VERSION/"
_SHUFFLE_BUFFER = 16384  # encoded ImageNet images, 1.8 GB; the shards are shuffled too


def is_at(path: pathlib.Path) -> bool:
    """Whether a folder has ImageNet, prepared or as downloaded."""
    return (path / "imagenet2012").is_dir() or bool(_archives(path))


def open_at(path: pathlib.Path) -> ClassificationDataset:
    """Opens a folder of this layout; images are not read yet."""
    versions = sorted((path / "imagenet2012").glob("*/dataset_info.json"))
    if not versions:
        manual = _archives(path)[0].parent if _archives(path) else "FOLDER_OF_THE_TARS"
        raise FileNotFoundError(
            f"imagenet2012 must be prepared in data_dir={path}. Run: tfds build "
            f"imagenet2012 --data_dir={path} --manual_dir={manual}"
        )
    import tensorflow_datasets as tfds  # takes seconds, and is needed only here

    builder = tfds.builder_from_directory(versions[-1].parent)
    if missing := {"train", "validation"} - builder.info.splits.keys():
        raise ValueError(
            f"{versions[-1].parent} must have the splits train and validation. It lacks "
            f"{listed(sorted(missing))}: prepare it with both archives"
        )
    train, test = (_records(tfds, builder, split) for split in ("train", "validation"))
    names = tuple(builder.info.features["label"].names)
    return ClassificationDataset(train, test, names, None)


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
    """ImageNet's archives as downloaded, from which tensorflow-datasets prepares it."""
    folders = path, path / "downloads" / "manual", path / "manual"
    return [tar for folder in folders for tar in folder.glob("ILSVRC2012_img_*.tar")]
