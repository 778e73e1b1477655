"""Another backend of Keras: `KERAS_BACKEND=jax python backend_process.py FOLDER`.

Goes on with each FOLDER/*.keras on FOLDER/data.npz, with the detector among them on
FOLDER/people.npz, and writes what became of it to FOLDER/*.npz.
"""

import gc
import pathlib
import sys

import keras
import numpy as np

import token_networks  # noqa: F401  whose layers are in the files
from keras_hybrid import HybridTransfer
from keras_hybrid.baselines import FeatureTransfer
from keras_hybrid.models.detection.faster_rcnn import FasterRCNN

DETECTOR, TWO_OUTPUTS = "detector", "two outputs"


def one_step(path, images, labels):
    """Logs of a step on one batch, moving averages included, and what it left."""
    model = keras.saving.load_model(path)
    assert isinstance(model, HybridTransfer | FeatureTransfer)
    assert isinstance(model.student, FasterRCNN) == (path.stem == DETECTOR)
    if keras.backend.backend() == "jax":
        model.jit_compile = True  # As `compile` has it there; TensorFlow's file has not.
    student = {id(weight) for weight in model.student.weights}
    logs = model.fit(images, labels, epochs=1, batch_size=len(images), verbose=0).history
    arrays = {f"log {name}": values for name, values in logs.items()}
    arrays |= {f"weight {w.path}": w for w in model.student.weights}
    others = [w for w in model.trainable_weights if id(w) not in student]
    arrays |= {f"adapter {i}": w for i, w in enumerate(others)}
    predictions = keras.tree.flatten(model.predict(images, verbose=0))
    arrays |= {f"prediction {i}": x for i, x in enumerate(predictions)}
    arrays["evaluation"] = model.evaluate(images, labels, verbose=0)
    return {name: keras.ops.convert_to_numpy(value) for name, value in arrays.items()}


def data_of(path):
    """Images and labels for the model in a file."""
    if path.stem != DETECTOR:
        with np.load(path.parent / "data.npz") as data:
            labels = data["labels"]
            return data["images"], [labels] * 2 if path.stem == TWO_OUTPUTS else labels
    with np.load(path.parent / "people.npz") as data:
        return data["images"], {name: data[name] for name in ("boxes", "labels")}


def main(folder):
    for path in folder.glob("*.keras"):
        np.savez(path.with_suffix(".npz"), **one_step(path, *data_of(path)))
    assert "tensorflow" not in sys.modules, "imported by keras_hybrid"


if __name__ == "__main__":
    gc.freeze()  # what is imported is no garbage
    main(pathlib.Path(sys.argv[1]))
