"""Detectors of a few channels, and synthetic data that they fit within a minute."""

import json

import keras
import numpy as np
from keras import layers
from PIL import Image

from keras_hybrid.models.detection.faster_rcnn import FasterRCNN


def backbone(channels=(8, 16, 16), scale=1.0):
    """A backbone for images of any size; strides 2, 4 and 8 end at out1, out2, out3."""
    image = keras.Input((None, None, 3))
    x = layers.Rescaling(scale)(image)
    for i, width in enumerate(channels, start=1):
        x = layers.Conv2D(
            width, 3, strides=2, padding="same", activation="relu", name=f"out{i}"
        )(x)
    return keras.Model(image, x, name="backbone")


def small(strides=(2, 4, 8), **kwargs):
    settings = {"anchor_heights": (12, 24, 48, 96), "channels": 16, "units": 32, **kwargs}
    keras.utils.set_random_seed(0)
    return FasterRCNN(backbone(), feature_strides=strides, **settings)


def people(count=4, height=64, width=96):
    """Dark images with one or two bright upright boxes each, and their ground truth."""
    generator = np.random.default_rng(0)
    images = generator.uniform(0, 0.2, (count, height, width, 3)).astype("float32")
    boxes, labels = np.zeros((count, 3, 4), "float32"), np.zeros((count, 3), "int32")
    for i in range(count):
        for j in range(1 + i % 2):
            tall = generator.integers(20, 60)
            x, y = generator.integers(4, 24) + 44 * j, generator.integers(2, 62 - tall)
            boxes[i, j] = x, y, x + round(tall / 2.44), y + tall
            labels[i, j] = 1
            images[i, y : y + tall, x : x + round(tall / 2.44)] += 0.8
    return images, {"boxes": boxes, "labels": labels}


def save_people(root, split, count):
    """Write images of bright people, 20 to 59 pixels high, and a COCO annotation file."""
    images, truth = people(count)
    (root / split).mkdir(parents=True)
    records = []
    for i, image in enumerate(images):
        picture = Image.fromarray((255 * image.clip(0, 1)).astype("uint8"))
        picture.save(root / split / f"{i}.png")
        for box in truth["boxes"][i][truth["labels"][i] > 0]:
            x, y, right, bottom = box.tolist()
            box = [x, y, right - x, bottom - y]
            records.append({"image_id": i, "category_id": 1, "bbox": box})
    names = [{"id": i, "file_name": f"{i}.png"} for i in range(count)]
    content = {"images": names, "annotations": records}
    (root / f"people_{split}.json").write_text(json.dumps(content))
