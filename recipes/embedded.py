"""The embedded world's data sets and teachers, trained on first use and then cached."""

import os
import pathlib

import keras
import numpy as np
from absl import logging

from keras_hybrid import applications
from keras_hybrid.data import augment, augment_maps, label_maps, streets
from keras_hybrid.models.deeplab_v2 import deeplab_v2
from keras_hybrid.recipes.workdir import save_model

# Another drawing needs another teacher: raise it when `streets` draws differently.
_VERSION = 3
_BATCH_SIZE, _EPOCHS = 64, 8
STREET_SIZE = 128, 256
"""(height, width) in pixels."""


def street_classifier(crops, classes, size):
    """ResNet-50 for street crops, from raw RGB (B, size, size, 3) to probabilities.

    Args:
        crops: The `ArraySource` to train it on.
        classes: How many it tells apart.
        size: Height and width in pixels.

    Returns:
        The `pathlib.Path` of the `.keras` file.
    """
    path = cache_dir() / f"street_classifier_{size}px_v{_VERSION}.keras"
    if not path.exists():
        logging.info("Training the teacher of the embedded world, once, for %s", path)
        keras.utils.set_random_seed(0)
        model = applications.load(
            "ResNet50", weights=None, input_shape=(size, size, 3), classes=classes
        )
        loss = "sparse_categorical_crossentropy"
        model.compile("adam", loss=loss, metrics=["accuracy"])
        transform = augment.pad_crop_flip(size)
        batches = crops.training_batches(_BATCH_SIZE, transform, 0, range(_EPOCHS))
        steps_per_epoch = len(crops) // _BATCH_SIZE
        model.fit(batches, epochs=_EPOCHS, steps_per_epoch=steps_per_epoch, shuffle=False)
        save_model(model, path)
    return path


def streets_with_labels(domain, training_images=400, test_images=100):
    """The `LabelMaps` of drawn streets of a domain, `"day"` or `"dusk"`."""

    def source(count, seed):
        scenes = [
            streets.scene(i, size=STREET_SIZE, domain=domain, seed=seed)
            for i in range(count)
        ]
        images = np.stack([scene.image for scene in scenes])
        labels = np.stack([scene.label_map for scene in scenes])
        return label_maps.source_of_arrays(images, labels)

    return label_maps.LabelMaps(
        source(training_images, seed=0), source(test_images, seed=1), streets.LABELS
    )


def street_segmenter():
    """DeepLab v2 on ResNet-50 for streets at dusk, from raw RGB (B, H, W, 3).

    Returns:
        The `pathlib.Path` of the `.keras` file.
    """
    path = cache_dir() / f"street_segmenter_v{_VERSION}.keras"
    if not path.exists():
        logging.info("Training the teacher of the embedded world, once, for %s", path)
        data = streets_with_labels("dusk")
        keras.utils.set_random_seed(0)
        backbone = applications.load("ResNet50", weights=None)
        model = deeplab_v2(backbone, len(data.class_names), output_stride=16)
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=label_maps.IGNORED
        )
        model.compile("adam", loss=loss, metrics=["accuracy"])
        batch_size, epochs = 8, 5
        transform = augment_maps.random_scale_crop_flip(STREET_SIZE)
        batches = data.train.training_batches(batch_size, transform, 0, range(epochs))
        steps_per_epoch = len(data.train) // batch_size
        model.fit(batches, epochs=epochs, steps_per_epoch=steps_per_epoch, shuffle=False)
        save_model(model, path)
    return path


def cache_dir():
    """`$XDG_CACHE_HOME/keras_hybrid`, by default ~/.cache/keras_hybrid."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "keras_hybrid"
