"""Cityscapes as downloaded, or as prepared by tensorflow-datasets."""

import pathlib

import numpy as np
import tensorflow as tf

from keras_hybrid.data.folders import SUFFIXES
from keras_hybrid.data.segmentation.dataset import (
    IGNORED,
    SegmentationDataset,
    source_of_encoded,
    source_of_files,
)
from keras_hybrid.data.segmentation.decoding import UNKNOWN

LAYOUT = (
    "Cityscapes: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and "
    "gtFine/SPLIT/CITY/*_gtFine_labelIds.png for the splits train and val; or a "
    "tensorflow-datasets folder with cityscapes/semantic_segmentation/VERSION/"
)

# Class name -> id in the label maps (cityscapesScripts, helpers/labels.py).
_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
_HIGHEST_ID = 34  # in GTA5, which has one id more than Cityscapes
_SHUFFLE_BUFFER = 512  # encoded pairs, 1.2 GB; the shards are shuffled too
CLASSES = tuple(_IDS)

CLASS_OF = np.full(256, UNKNOWN, "int16")
CLASS_OF[: _HIGHEST_ID + 1] = IGNORED
CLASS_OF[255] = IGNORED  # id -1, the licence plate
CLASS_OF[list(_IDS.values())] = range(len(_IDS))


def is_at(path: pathlib.Path) -> bool:
    """Whether a folder looks like Cityscapes."""
    return (path / "leftImg8bit").is_dir() or _prepared(path).is_dir()


def open_at(path: pathlib.Path) -> SegmentationDataset:
    """Opens a folder of this layout as a `SegmentationDataset`."""
    if _prepared(path).is_dir():
        return _open_prepared(path)
    return SegmentationDataset(_split(path, "train"), _split(path, "val"), CLASSES)


def _split(path, split):
    pairs, left_out = [], []
    # Without hidden files, such as the ._ files of macOS.
    files = (path / "leftImg8bit" / split).glob("[!.]*/[!.]*_leftImg8bit.*")
    for image in sorted(file for file in files if file.suffix.lower() in SUFFIXES):
        name = f"{image.stem.replace('_leftImg8bit', '_gtFine_labelIds')}.png"
        labels = path / "gtFine" / split / image.parent.name / name
        if labels.exists():
            pairs.append((image, labels))
        else:
            left_out.append(str(image))
    if not pairs:
        raise FileNotFoundError(
            f"{path} must hold images with label maps of the split {split}. Received: "
            f"{len(left_out)} images and none of their label maps. Expected {LAYOUT}"
        )
    return source_of_files(pairs, CLASS_OF, left_out)


def _prepared(path):
    return path / "cityscapes" / "semantic_segmentation"


def _open_prepared(path):
    versions = sorted(_prepared(path).glob("*/dataset_info.json"))
    if not versions:
        raise FileNotFoundError(
            f"cityscapes must be prepared in data_dir={path}. Run: tfds build "
            f"cityscapes/semantic_segmentation --data_dir={path} --manual_dir="
            "FOLDER_OF_THE_ZIPS"
        )
    import tensorflow_datasets as tfds  # takes seconds, and is needed only here

    builder = tfds.builder_from_directory(versions[-1].parent)
    train, test = (_records(tfds, builder, split) for split in ("train", "validation"))
    return SegmentationDataset(train, test, CLASSES)


def _records(tfds, builder, split):
    skip = tfds.decode.SkipDecoding()

    def examples(seed):
        records = builder.as_dataset(
            split,
            shuffle_files=seed is not None,
            decoders={"image_left": skip, "segmentation_label": skip},
            read_config=tfds.ReadConfig(shuffle_seed=seed, try_autocache=False),
        )
        if seed is not None:
            records = records.shuffle(_SHUFFLE_BUFFER, seed)
        return records.map(
            lambda record: (
                record["image_id"],
                tf.stack([record["image_left"], record["segmentation_label"]]),
                0,
            )
        )

    return source_of_encoded(examples, builder.info.splits[split].num_examples, CLASS_OF)
