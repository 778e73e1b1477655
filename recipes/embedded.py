"""The teachers of the embedded world: trained on first use, then read from the cache."""

import os
import pathlib

import keras
from absl import logging

from keras_hybrid import applications
from keras_hybrid.recipes.run import save_model

# Another drawing needs another teacher: raise it when `streets` draws differently.
_VERSION = 2


def street_classifier(batches, classes, size):
    """ResNet-50 for street crops.

    Args:
        batches: Training data: images (B, size, size, 3) raw RGB, labels (B,).
        classes: How many it tells apart.
        size: Height and width in pixels.

    Returns:
        A Functional model from such images to probabilities (B, classes).
    """
    path = cache_dir() / f"street_classifier_{size}px_v{_VERSION}.keras"
    if path.exists():
        return keras.saving.load_model(path)
    logging.info("Training the teacher of the embedded world, once, for %s", path)
    model = applications.load(
        "ResNet50", weights=None, input_shape=(size, size, 3), classes=classes
    )
    model.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(batches, epochs=8)
    save_model(model, path)
    return model


def cache_dir():
    """`$XDG_CACHE_HOME/keras_hybrid`, by default ~/.cache/keras_hybrid."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "keras_hybrid"
