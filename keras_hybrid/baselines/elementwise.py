"""Whether a piece of a network is an activation function, from its values."""

import dataclasses

import keras
import numpy as np
from keras import ops


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a piece of a network does to a map.

    Attributes:
        is_activation: Acts on each number by itself, and is not affine.
        is_affine: Acts on each number by itself as a x + b.
    """

    is_activation: bool = False
    is_affine: bool = False


def effect(steps, source, source_spec, target):
    """The `Effect` of a piece of a network in inference, on random maps of 4 x 4.

    Args:
        steps: The `Step`s of the piece.
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
        with keras.StatelessScope():  # the user's layers count and add nothing
            of_one, of_other, of_either, of_mean = map(result, inputs)
    except Exception:  # a Reshape to a fixed size, say: whatever a layer raises
        return Effect()
    if of_one.shape != shape or not _close(of_either, np.where(choice, of_one, of_other)):
        return Effect()
    is_affine = _close(of_mean, (of_one + of_other) / 2)
    return Effect(is_activation=not is_affine, is_affine=is_affine)


def _close(a, b):
    return np.allclose(a, b, rtol=1e-2, atol=1e-2)  # of float16, too
