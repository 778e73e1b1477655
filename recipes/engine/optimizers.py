"""What the schedules and optimizers of the recipes have in common."""

import keras
from keras.optimizers.schedules import LearningRateSchedule, PolynomialDecay

CLIP_NORM = 10.0
"""Norm to which the gradient of all weights is clipped.

The plain sum of losses needs it: nothing normalizes the output of the last adapters on
the teacher-first path, and without clipping the loss on the synthetic crops became NaN.
"""


def polynomial_decay(learning_rate: float, steps: int) -> PolynomialDecay:
    """Returns learning_rate * (1 - step / steps) ** 0.9, and 0 from `steps` on."""
    return PolynomialDecay(learning_rate, steps, end_learning_rate=0.0, power=0.9)


def sgd(schedule: LearningRateSchedule, weight_decay: float) -> keras.optimizers.SGD:
    """Returns SGD with momentum 0.9 and clipping.

    Args:
        schedule: Learning rate.
        weight_decay: Factor of an L2 penalty, whose gradient enters the momentum. Keras's
            own weight decay bypasses the momentum, which would have amplified it tenfold.
    """
    momentum = 0.9
    return keras.optimizers.SGD(
        schedule,
        momentum=momentum,
        weight_decay=weight_decay / (1 - momentum),
        global_clipnorm=CLIP_NORM,
    )
