"""Training in which each part of a gradient step acts, on a network of two layers."""

import itertools

import keras
import numpy as np

from keras_hybrid.gradient_step import GradientStep
from keras_hybrid.multi_worker import MultiWorkerFit

STEPS, BATCH = 8, 8
PRECISIONS = "float32", "overflow in the first half", "overflow in the second half"
CLIPS = {"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"clipvalue": 0.1}
EXTRAS = (
    {"gradient_accumulation_steps": 2},
    {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3},
)
CASES = [
    (precision, {**clip, **extra})
    for precision, clip, extra in itertools.product(PRECISIONS, CLIPS, EXTRAS)
]


class Model(GradientStep, MultiWorkerFit, keras.Model):
    pass


def train(strategy, model_class, precision, arguments):
    """A model after eight steps of SGD with `arguments`.

    The halves of a batch differ: their own gradients would be clipped differently. In
    float16 one half of the third batch has an infinite gradient. The rate is low there,
    since sums in float16 depend on their order.
    """
    is_float16 = precision != "float32"
    keras.config.set_dtype_policy("mixed_float16" if is_float16 else "float32")
    with strategy.scope():
        keras.utils.set_random_seed(3)
        x = inputs = keras.Input((6,))
        x = keras.layers.Dense(5, "tanh", kernel_constraint="max_norm")(x)
        outputs = keras.layers.Dense(3, dtype="float32")(x)
        model = model_class(inputs, outputs)
        rate = 1e-3 if is_float16 else 0.3
        model.compile(keras.optimizers.SGD(rate, momentum=0.9, **arguments), "mse")
    keras.config.set_dtype_policy("float32")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(STEPS * BATCH, 6)).astype("float32")
    y = generator.normal(size=(STEPS * BATCH, 3)).astype("float32")
    in_first_half = np.arange(len(y)) % BATCH < BATCH // 2
    y *= np.where(in_first_half, 0.2, 4.0)[:, None]
    if is_float16:
        y[2 * BATCH + (0 if "first" in precision else BATCH // 2)] = 1e30
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    return model
