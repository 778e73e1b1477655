"""Adapters of the ablations, for the argument `adapter` of `HybridTransfer`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from benchmarks.study.plan import Row
from keras_hybrid import HybridTransfer
from keras_hybrid.hybrid.adapters import Adapter
from keras_hybrid.training.types import Tensor


class AdapterWithNorm(Adapter):
    """An adapter with batch normalization behind it.

    It always normalizes with the statistics of the batch.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.norm = keras.layers.BatchNormalization(name="norm")

    def call(self, x: Tensor, size: Sequence[int | Tensor]) -> Tensor:
        return self.norm(super().call(x, size), training=True)


class FastAdapter(Adapter):
    """An adapter that SGD trains at another learning rate than the other weights.

    Its weights are multiplied by a constant, the square root of `rate`, whenever they are
    used (equalized learning rate, Karras et al. 2018, section 4.1). The gradient of a
    weight and the effect of its change are each multiplied by that constant. Only
    clipping sees larger gradients than with a learning rate of its own, with which
    benchmarks/study/cifar10.jsonl was measured; a new run may differ from these lines
    within the spread of the seeds.

    Args:
        rate: Factor of the learning rate.
        *args, **kwargs: Those of `Adapter`.
    """

    def __init__(self, *args: Any, rate: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.factor = rate**0.5

    def call(self, x: Tensor, size: Sequence[int | Tensor]) -> Tensor:
        return self.factor * super().call(x, size)  # which is linear in the weights


def adapter_of(row: Row) -> Callable[..., Adapter]:
    """Returns the class or function that makes the adapters of a row."""
    if row.adapter_norm:
        return AdapterWithNorm
    if row.adapter_rate != 1:
        return functools.partial(FastAdapter, rate=row.adapter_rate)
    return Adapter


def start_alike(model: HybridTransfer, other: HybridTransfer) -> None:
    """Gives the adapters of `model` the initial weights of those of `other`.

    Where paths change network at other points, adapters of other names or channels keep
    their own.
    """
    known = {adapter.name: adapter.convolution for adapter in other.adapters}
    for adapter in model.adapters:
        like = known.get(adapter.name)
        if like is not None and like.kernel.shape == adapter.convolution.kernel.shape:
            weights = [weight / getattr(adapter, "factor", 1) for weight in like.weights]
            adapter.convolution.set_weights(weights)
