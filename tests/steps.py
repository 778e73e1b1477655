"""Training runs of a network of two layers that use each part of a gradient step."""

import itertools

import keras
import numpy as np

from keras_hybrid.training.gradient_step import GradientStep
from keras_hybrid.training.multi_worker import MultiWorkerFit

STEPS, BATCH = 8, 8
# Dtype policy -> half of the third batch that has an infinite gradient, if any.
OVERFLOWS = {"float32": [None], "mixed_float16": ["first", "second"]}
CLIPS = {"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"clipvalue": 0.1}
EXTRAS = (
    {"gradient_accumulation_steps": 2},
    {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3},
)
# Every pair of a policy, a clip and an extra occurs, but not every triple.
CASES = [
    (policy, {**CLIPS[i], **EXTRAS[j]})
    for (policy_index, policy), i, j in itertools.product(
        enumerate(OVERFLOWS), range(len(CLIPS)), range(len(EXTRAS))
    )
    if (policy_index + i + j) % 2 == 0
]
FEW_CASES = CASES[2:5]
"""Each policy, clip and extra occurs."""


class Model(GradientStep, MultiWorkerFit, keras.Model):
    pass


def trained(strategy, model_class, policy, arguments):
    """Yield (half of the batch with the overflow, model after eight steps of SGD).

    The same model is reset and trained again, because tracing its graph takes long.
    """
    model = compiled(strategy, model_class, policy, arguments)
    with strategy.scope():
        model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    initial = [variable.numpy() for variable in variables]
    for overflow in OVERFLOWS[policy]:
        with strategy.scope():
            for variable, value in zip(variables, initial):
                variable.assign(value)
        x, y = data(overflow)
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
        yield overflow, model


def compiled(strategy, model_class, policy, arguments):
    keras.config.set_dtype_policy(policy)
    with strategy.scope():
        keras.utils.set_random_seed(3)
        x = inputs = keras.Input((6,))
        x = keras.layers.Dense(5, "tanh", kernel_constraint="max_norm")(x)
        outputs = keras.layers.Dense(3, dtype="float32")(x)
        model = model_class(inputs, outputs)
        # A low rate in float16, where sums depend on their order.
        rate = 0.3 if policy == "float32" else 1e-3
        model.compile(keras.optimizers.SGD(rate, momentum=0.9, **arguments), "mse")
    keras.config.set_dtype_policy("float32")
    return model


def data(overflow):
    """Data whose batches have two halves with gradients of different size.

    Clipping per half would therefore differ from clipping per batch.
    """
    generator = np.random.default_rng(0)
    x = generator.normal(size=(STEPS * BATCH, 6)).astype("float32")
    y = generator.normal(size=(STEPS * BATCH, 3)).astype("float32")
    in_first_half = np.arange(len(y)) % BATCH < BATCH // 2
    y *= np.where(in_first_half, 0.2, 4.0)[:, None]
    if overflow:
        y[2 * BATCH + (0 if overflow == "first" else BATCH // 2)] = 1e30
    return x, y
