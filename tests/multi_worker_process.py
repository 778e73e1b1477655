"""One of several workers: `python multi_worker_process.py OUT.npz` with TF_CONFIG set."""

import gc
import sys

import keras_hybrid  # noqa: F401  before TensorFlow: oneDNN is on

# isort: split
import keras
import numpy as np
import tensorflow as tf

import steps
import tiny
from keras_hybrid import HybridTransfer
from keras_hybrid.data.classification import augment
from keras_hybrid.data.sources import EncodedSource


def train(strategy, hybrid):
    """Weights of the student and history after two epochs of five steps.

    The global norm of the gradient is clipped, as in the recipes.
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
    # The halves of a batch differ in scale, so alpha per worker would differ as well.
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


def train_on_files(strategy):
    """Weights of a student after an epoch of five steps, and indices of files read."""
    images, labels = tiny.batch(40)
    files = {
        b"%d.jpg" % index: tf.io.encode_jpeg(tf.cast(127 * image + 128, "uint8")).numpy()
        for index, image in enumerate(images)
    }
    names, labels, read = tf.constant([*files]), tf.constant(labels), set()

    def examples(seed):
        order = tf.data.Dataset.range(40).shuffle(40, seed)
        return order.map(lambda index: (names[index], names[index], labels[index]))

    def contents(name):
        read.add(int(name.removesuffix(b".jpg")))
        return files[name]

    def read_file(name):
        return tf.ensure_shape(tf.numpy_function(contents, [name], "string"), ())

    source = EncodedSource(examples, 40, read_file)
    transform = augment.random_resized_crop_flip(32)
    with strategy.scope():
        keras.utils.set_random_seed(3)
        student = tiny.student(batch_norm=False)
        model = steps.Model(student.input, student.output)
        # Inputs up to 255 make large gradients: a higher rate would amplify rounding.
        model.compile(keras.optimizers.SGD(1e-3), loss="sparse_categorical_crossentropy")
    batches = strategy.distribute_datasets_from_function(
        lambda context: source.training_batches(8, transform, 0, range(1), context)
    )
    model.fit(batches, steps_per_epoch=5, shuffle=False, verbose=0)
    return [weight.numpy() for weight in student.weights], sorted(read)


def results(strategy):
    """Weights and histories of all runs for `np.savez`, and indices of files, "read"."""
    arrays = {}
    for hybrid in (True, False):
        weights, history = train(strategy, hybrid)
        arrays |= {f"{hybrid} weight {i}": value for i, value in enumerate(weights)}
        arrays |= {f"{hybrid} {name}": values for name, values in history.items()}
    for case in steps.FEW_CASES:
        for overflow, model in steps.trained(strategy, steps.Model, *case):
            name = f"{case} {overflow}"
            weights = enumerate(model.get_weights())
            arrays |= {f"{name} weight {i}": value for i, value in weights}
    weights, arrays["read"] = train_on_files(strategy)
    arrays |= {f"files weight {i}": value for i, value in enumerate(weights)}
    return arrays


if __name__ == "__main__":
    gc.freeze()  # imported modules are never garbage
    # Optimizing a graph takes longer than the few steps here.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    np.savez(sys.argv[1], **results(tf.distribute.MultiWorkerMirroredStrategy()))
