"""The teachers of the embedded world: trained on first use, then read from the cache."""

import os
import pathlib

import keras
from absl import logging

from keras_hybrid import applications
from keras_hybrid.data import augment
from keras_hybrid.recipes.run import save_model

# Another drawing needs another teacher: raise it when `streets` draws differently.
_VERSION = 3
_BATCH_SIZE, _EPOCHS = 64, 8


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
        model.fit(batches, epochs=_EPOCHS, steps_per_epoch=steps_per_epoch)
        save_model(model, path)
    return path


def cache_dir():
    """`$XDG_CACHE_HOME/keras_hybrid`, by default ~/.cache/keras_hybrid."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "keras_hybrid"
