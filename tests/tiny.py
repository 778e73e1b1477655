"""Networks of a few channels, with which a training step takes a fraction of a second."""

import keras
import numpy as np
from keras import layers


def teacher(size=32, channels=(6, 8, 10), name="tiny_teacher"):
    """A residual network with BatchNorm; strides 2, 4, 8 end at out1, out2, out3."""
    x = inputs = keras.Input((size, size, 3))
    for i, width in enumerate(channels, start=1):
        x = layers.Conv2D(width, 3, strides=2, padding="same", name=f"down{i}")(x)
        y = layers.Conv2D(width, 3, padding="same", name=f"conv{i}")(x)
        y = layers.BatchNormalization(name=f"bn{i}")(y)
        x = layers.Add(name=f"add{i}")([x, y])
        x = layers.ReLU(name=f"out{i}")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5)(x), name=name)


def student(size=32, channels=(4, 6, 8), classes=4, batch_norm=True, **head):
    """A chain of layers; strides 2, 4, 8 end at out1, out2, out3."""
    x = inputs = keras.Input((size, size, 3))
    for i, width in enumerate(channels, start=1):
        x = layers.Conv2D(width, 3, strides=2, padding="same", name=f"conv{i}")(x)
        if batch_norm:
            x = layers.BatchNormalization(name=f"bn{i}", momentum=0.9)(x)
        x = layers.Activation("tanh", name=f"out{i}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(classes, activation="softmax", name="classifier", **head)(x)
    return keras.Model(inputs, x, name="tiny_student")


def batch(count=8, size=32, classes=4, seed=0):
    """Images (count, size, size, 3) float32 in -1..1 and labels (count,)."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (count, size, size, 3)).astype("float32")
    return images, rng.integers(0, classes, count)
