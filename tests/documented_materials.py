"""What documented commands find: tiny files under the names that the texts give them."""

import importlib.util
import json

import keras
import numpy as np
import tensorflow_datasets as tfds

import detectors
import tiny
import torch_weights
import trees
from keras_hybrid.models.segmentation.deeplab_v2 import deeplab_v2
from keras_hybrid.models.state_dict import EPSILON_KEY
from keras_hybrid.recipes.engine import teachers

CLASSES = "ant", "bee", "cow", "dog"


def prepare(folder):
    """Fills `folder`: `work` is where a reader works, `data` what is /data in the texts.

    `cache` is what $XDG_CACHE_HOME holds once the recipes have run without --data_dir.
    """
    for name in ("work", "cache/keras_hybrid"):
        (folder / name).mkdir(parents=True)
    _data(folder / "data")
    _teachers(folder / "cache/keras_hybrid")
    _files(folder / "work")
    _study(folder / "work/materials")


def _data(root):
    """tfds with imagenet2012; cityscapes with the boxes of CityPersons; gta5."""
    _imagenet2012(root / "tfds")
    generator = np.random.default_rng(0)
    size = 96, 192
    noise = [generator.integers(0, 256, (*size, 3)).astype("uint8") for _ in range(2)]
    labels = [trees.halves(7, 24, size)] * 2
    for split in ("train", "val"):
        trees.add_cityscapes(root / "cityscapes", split, noise, labels)
        records = {"bbox": [20, 10, 30, 73], "bboxVis": [20, 10, 30, 73]}
        content = {"objects": [{"label": "pedestrian", "instanceId": 24000, **records}]}
        for i in range(2):
            stem = f"aachen_{i:06}_000019"
            folder = root / "cityscapes/gtBboxCityPersons" / split / "aachen"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{stem}_gtBboxCityPersons.json"
            path.write_text(json.dumps({"imgHeight": 96, "imgWidth": 192, **content}))
    for i in range(3):
        trees.save(root / f"gta5/images/{i:05}.png", noise[0])
        trees.save(root / f"gta5/labels/{i:05}.png", labels[0], palette=True)


def _imagenet2012(root):
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=CLASSES),
        "file_name": tfds.features.Text(),
    }
    image = np.zeros((16, 16, 3), "uint8")
    examples = [
        (i, {"image": image + i, "label": i, "file_name": f"{i}.JPEG"}) for i in range(2)
    ]
    tfds.dataset_builders.store_as_tfds_dataset(
        "imagenet2012",
        "5.1.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": examples, "validation": examples},
        data_dir=root,
    )


def _teachers(folder):
    """Write teachers for synthetic data, under the names that the recipes look for."""
    network = _features()
    for name in ("street_classifier_32px", "street_segmenter", "pose_network"):
        network.save(folder / f"{name}_v{teachers._VERSION}.keras")


def _features():
    """Maps of strides 2 to 32, of images of any size."""
    network = tiny.teacher(size=None, channels=(4, 4, 4, 4, 4))
    return keras.Model(network.input, network.get_layer("out5").output)


def _files(folder):
    student = tiny.student(size=32)
    image = keras.Input((32, 32, 3))
    scaled = keras.layers.Rescaling(1 / 127.5, -1)(image)
    keras.Model(image, student(scaled)).save(folder / "student.keras")
    detectors.small().save(folder / "detector.keras")
    network = tiny.student(size=None)
    trunk = keras.Model(network.input, network.get_layer("out3").output)
    segmenter = deeplab_v2(trunk, len(CLASSES), output_stride=4, rates=(1, 2))
    segmenter.save(folder / "segmenter.keras")
    generator = np.random.default_rng(0)
    for i in range(4):
        path = folder / f"photographs/holidays/{i}.png"
        trees.save(path, generator.integers(0, 256, (40, 60, 3)).astype("uint8"))
        for part in ("train", "val"):
            trees.save(
                folder / f"pets/{part}/{CLASSES[i % 2]}/{i}.png",
                generator.integers(0, 256, (40, 60, 3)).astype("uint8"),
            )
    weights = torch_weights.state_dict((16, 32, 64, 128), blocks=(1, 1, 1, 1))
    weights = torch_weights.openpifpaf(weights)
    zeros = {name: np.zeros_like(value) for name, value in weights.items()}
    if importlib.util.find_spec("torch"):
        _checkpoints(folder)
    path = folder / "openpifpaf_resnet50.npz"
    np.savez_compressed(path, **zeros, **{EPSILON_KEY: 1e-4})
    (folder / "labels.txt").write_text("\n".join(CLASSES) + "\n")


def _checkpoints(folder):
    """PyTorch's, where it is installed: no test needs it."""
    import torch

    for name in ("resnet50", "pose"):
        torch.save({"conv1.weight": torch.zeros(4, 3, 7, 7)}, folder / f"{name}.pt")


def _study(folder):
    """What benchmarks.study.run starts from."""
    images, labels = np.zeros((5000, 32, 32, 3), "uint8"), np.arange(5000) % 10
    folder.mkdir()
    np.savez_compressed(
        folder / "cifar10.npz",
        x_train=images,
        y_train=labels,
        x_test=images[:1000],
        y_test=labels[:1000],
    )
    for split, count in (("train", 4), ("val", 4), ("test", 1)):
        for i in range(count):
            trees.save(folder / f"camvid/{split}/{i}.png", trees.grey(i, (96, 192)))
            pedestrian = trees.halves(9, 0, (96, 192))
            pedestrian[:, 40:] = 0
            trees.save(folder / f"camvid/{split}annot/{i}.png", pedestrian)
        people = {
            "images": [{"id": i, "file_name": f"{i}.png"} for i in range(count)],
            "annotations": [
                {"image_id": i, "category_id": 1, "bbox": [20, 10, 30, 73]}
                for i in range(count)
            ],
            "categories": [{"id": 1, "name": "person"}],
        }
        (folder / f"camvid/people_{split}.json").write_text(json.dumps(people))
    (folder / "teachers").mkdir()
    network = _features()
    for name in ("vgg16_imagenet", "pose_mobilenet_coco_backbone"):
        network.save(folder / f"teachers/{name}.keras")
