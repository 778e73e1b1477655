"""Models saved by version 0.1.0 load, predict the same and continue training."""

import pathlib

import keras
import numpy as np
import pytest

import tiny
from detectors import people

_FOLDER = pathlib.Path(__file__).parent / "saved_by_0_1_0"


def data_of(name):
    """The batch on which the model was trained for one step before it was saved."""
    if name == "detector":
        return people(2)
    if name == "segmenter":
        images = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype("float32")
        return images, np.zeros((2, 8, 8), "uint8")
    return tiny.batch(4)


@pytest.mark.parametrize("name", ["hybrid", "overhaul", "detector", "segmenter"])
def test_a_model_saved_by_0_1_0_predicts_the_same_and_trains(name):
    model = keras.saving.load_model(_FOLDER / f"{name}.keras")
    x, y = data_of(name)
    predictions = keras.tree.flatten(model.predict(x, verbose=0))
    with np.load(_FOLDER / f"{name}.npz") as saved:
        for received, expected in zip(predictions, saved.values(), strict=True):
            np.testing.assert_allclose(received, expected, atol=1e-4)
    assert model.optimizer.iterations == 1
    history = model.fit(x, y, batch_size=len(x), verbose=0).history
    assert np.isfinite(history["loss"]).all()
