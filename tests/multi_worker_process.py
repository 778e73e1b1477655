"""One of several machines: `python multi_worker_process.py OUT.npz`, given TF_CONFIG."""

import sys

import keras
import numpy as np
import tensorflow as tf

import steps
import tiny
from keras_hybrid import HybridTransfer


def train(strategy, hybrid):
    """Weights of the student, and the history, after two epochs of five steps.

    The gradient's norm is clipped, as in the recipes.
    """
    with strategy.scope():
        keras.utils.set_random_seed(3)
        student = tiny.student(batch_norm=False)
        if hybrid:
            model = HybridTransfer(tiny.teacher(), student)
        else:
            model = steps.Model(student.input, student.output)
        model.compile(
            keras.optimizers.SGD(0.3, momentum=0.9, global_clipnorm=0.5),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
    images, labels = tiny.batch(40)
    # The two halves of a batch differ, so that their own alphas would differ as well.
    scale = np.where(np.arange(40) % 8 < 4, 0.2, 3.0).astype("float32")
    images *= scale[:, None, None, None]
    history = model.fit(
        images,
        labels,
        batch_size=8,
        epochs=2,
        shuffle=False,
        validation_data=(images, labels),
        verbose=0,
    )
    return [weight.numpy() for weight in student.weights], history.history


def results(strategy):
    """The same of both models, and the weights of `steps`, as `np.savez` takes it."""
    arrays = {}
    for hybrid in (True, False):
        weights, history = train(strategy, hybrid)
        arrays |= {f"{hybrid} weight {i}": value for i, value in enumerate(weights)}
        arrays |= {f"{hybrid} {name}": values for name, values in history.items()}
    for case in steps.CASES:
        weights = steps.train(strategy, steps.Model, *case).get_weights()
        arrays |= {f"{case} weight {i}": value for i, value in enumerate(weights)}
    return arrays


if __name__ == "__main__":
    np.savez(sys.argv[1], **results(tf.distribute.MultiWorkerMirroredStrategy()))
