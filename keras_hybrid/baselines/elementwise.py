"""Whether part of a network is an activation function, seen from its values."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_hybrid.hybrid.graph import Step


@dataclasses.dataclass(frozen=True)
class Effect:
    """What part of a network does to a feature map.

    Attributes:
        is_activation: Whether it acts elementwise and is not affine.
        is_affine: Whether it acts elementwise as a x + b.
    """

    is_activation: bool = False
    is_affine: bool = False


def effect(
    steps: Sequence[Step], source: int, source_spec: keras.KerasTensor, target: int
) -> Effect:
    """Returns the `Effect` of part of a network at inference, on random maps of 4 x 4.

    Args:
        steps: Steps of that part.
        source, target: Symbols of its input and output.
        source_spec: The input's `KerasTensor`.
    """
    if any(step.weighted_layers for step in steps):
        return Effect()
    shape = (1, *[4] * (len(source_spec.shape) - 2), source_spec.shape[-1])
    generator = np.random.default_rng(0)
    one, other = (3 * generator.normal(size=shape) for _ in range(2))
    choice = generator.random(shape) < 0.5

    def result(x):
        values = {source: ops.convert_to_tensor(x, source_spec.dtype)}
        for step in steps:
            step.run(values, training=False)
        return ops.convert_to_numpy(ops.cast(values[target], "float32"))

    inputs = one, other, np.where(choice, one, other), (one + other) / 2
    try:
        with keras.StatelessScope():  # the user's layers update no state and add no loss
            of_one, of_other, of_either, of_mean = map(result, inputs)
    except Exception:  # whatever a layer raises, such as a Reshape to a fixed size
        return Effect()
    if of_one.shape != shape or not _close(of_either, np.where(choice, of_one, of_other)):
        return Effect()
    is_affine = _close(of_mean, (of_one + of_other) / 2)
    return Effect(is_activation=not is_affine, is_affine=is_affine)


def _close(a, b):
    return np.allclose(a, b, rtol=1e-2, atol=1e-2)  # also for float16
