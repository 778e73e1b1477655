"""Another backend of Keras: `KERAS_BACKEND=jax python backend_process.py FOLDER`.

Goes on with each FOLDER/*.keras on FOLDER/data.npz, and writes what became of it to
FOLDER/*.npz.
"""

import pathlib
import sys

import keras
import numpy as np

from keras_hybrid import HybridTransfer
from keras_hybrid.baselines import FeatureTransfer


def one_step(path, images, labels):
    """Logs of a step on one batch, moving averages included, and what it left."""
    model = keras.saving.load_model(path)
    assert isinstance(model, HybridTransfer | FeatureTransfer)
    student = {id(weight) for weight in model.student.weights}
    logs = model.fit(images, labels, epochs=1, batch_size=len(images), verbose=0).history
    arrays = {f"log {name}": values for name, values in logs.items()}
    arrays |= {f"weight {w.path}": w for w in model.student.weights}
    others = [w for w in model.trainable_weights if id(w) not in student]
    arrays |= {f"adapter {i}": w for i, w in enumerate(others)}
    arrays["predictions"] = model.predict(images, verbose=0)
    arrays["evaluation"] = model.evaluate(images, labels, verbose=0)
    return {name: keras.ops.convert_to_numpy(value) for name, value in arrays.items()}


def main(folder):
    with np.load(folder / "data.npz") as data:
        images, labels = data["images"], data["labels"]
    for path in folder.glob("*.keras"):
        np.savez(path.with_suffix(".npz"), **one_step(path, images, labels))
    assert "tensorflow" not in sys.modules, "imported by keras_hybrid"


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
