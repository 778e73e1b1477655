"""Teachers for the synthetic data are trained once and cached."""

import errno
import os

import keras
import pytest

from keras_hybrid.recipes.engine import teachers


def test_cached_teachers_are_float32_under_any_policy(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keras.config.set_dtype_policy("mixed_float16")
    image = keras.Input((4, 4, 3))
    path = teachers._cached(
        "tiny", lambda: keras.Model(image, keras.layers.Conv2D(2, 1, name="a")(image))
    )
    assert keras.config.dtype_policy().name == "mixed_float16"
    network = keras.saving.load_model(path)
    assert network.get_layer("a").dtype_policy.name == "float32"


def test_an_unwritable_cache_is_reported_before_training(tmp_path, monkeypatch):
    # File permissions do not stop root, so the error is simulated.
    def mkdir(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(OSError, match="XDG_CACHE_HOME/keras_hybrid must be writable"):
        teachers._cached("tiny", lambda: 1 / 0)
