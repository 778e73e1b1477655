"""The size of a feature map as a function of the size of the map it is computed from."""

import dataclasses
from collections.abc import Sequence

import keras

from keras_hybrid.hybrid.graph import Step
from keras_hybrid.training.types import Tensor

# Large, so that a 3x3 convolution without padding, which removes two pixels, does not
# count as downsampling, and no network of Keras Applications runs out of pixels.
_PROBE_SIZE = 256
# Not 1, to which windows of an image may add up, nor None, which layers may not take.
BATCH = 2


@dataclasses.dataclass(frozen=True)
class Scale:
    """Output size along one axis: (size * up + offset) // down.

    Exact for any chain of convolutions, pooling and padding, because floor divisions
    nest. `up` is 0 where the output size is fixed, as after a `Resizing` layer.

    >>> Scale(down=2, offset=1)(225)  # a 3x3 convolution of stride 2, padding "same"
    113
    """

    up: int = 1
    offset: int = 0
    down: int = 1

    def __call__(self, size: int | Tensor) -> int | Tensor:
        return (size * self.up + self.offset) // self.down

    def then(self, other: "Scale") -> "Scale":
        """The scale of this part of a network followed by one with the scale `other`."""
        if other.up == 0:
            return other
        return Scale(
            up=self.up * other.up,
            offset=self.offset * other.up + other.offset * self.down,
            down=self.down * other.down,
        )


def measure(
    steps: Sequence[Step],
    source: int,
    target: int,
    source_spec: keras.KerasTensor,
    target_spec: keras.KerasTensor,
) -> tuple[Scale | None, Scale | None] | None:
    """Measures the scales (height, width) of a part of a network.

    Args:
        steps: The `Step`s of the part.
        source, target: Symbols of its input and output.
        source_spec, target_spec: Their `KerasTensor`s (B, H, W, C).

    Returns:
        Two scales, each None where it cannot be determined; None where the output has
        another batch size, as that of windows of an image.
    """

    def output_size(size):
        shape = (BATCH, size, size, source_spec.shape[-1])
        batch, height, width, _ = infer_shape(steps, source, target, shape, source_spec)
        if batch != BATCH:
            raise ValueError("The output has another batch size.")
        return height, width

    try:
        sizes = _Memo(output_size)
        return _fit(lambda n: sizes[n][0]), _fit(lambda n: sizes[n][1])
    except Exception:  # whatever a layer raises, e.g. a Reshape to a fixed size
        if not _keeps_batch(steps, source, target, source_spec):
            return None
        _, height, width, _ = source_spec.shape
        _, new_height, new_width, _ = target_spec.shape
        return fit_one(height, new_height), fit_one(width, new_width)


def _keeps_batch(steps, source, target, source_spec):
    shape = (BATCH, *source_spec.shape[1:])
    try:
        return infer_shape(steps, source, target, shape, source_spec)[0] in (BATCH, None)
    except Exception:
        return True


def infer_shape(
    steps: Sequence[Step],
    source: int,
    target: int,
    shape: Sequence[int],
    source_spec: keras.KerasTensor,
) -> tuple[int | None, ...]:
    """Infers the shape of a tensor from another shape of the tensor `source`.

    Raises whatever a layer raises that does not take it.
    """
    values = {source: keras.KerasTensor(shape, source_spec.dtype)}
    for step in steps:
        step.infer(values)
    return tuple(values[target].shape)


class _Memo(dict):
    def __init__(self, function):
        self.function = function

    def __missing__(self, key):
        self[key] = self.function(key)
        return self[key]


def _fit(output_size):
    n = _PROBE_SIZE
    here = output_size(n)
    if here == output_size(2 * n):
        return Scale(up=0, offset=here)
    if here > 1.5 * n:
        up = round(here / n)
        return Scale(up=up, offset=here - up * n)
    down = max(1, round(n / here))
    # Where the output grows by one, the division leaves no remainder.
    grows_at = next(m for m in range(n + 1, 2 * n + 1) if output_size(m) > here)
    return Scale(down=down, offset=down * output_size(grows_at) - grows_at)


def fit_one(source: int | None, target: int | None) -> Scale | None:
    """Fits a scale to the only known size; less reliable than `_fit` for small maps."""
    if not source or not target:
        return None
    down = max(1, round(source / target))
    return Scale(down=down, offset=target * down - source)
