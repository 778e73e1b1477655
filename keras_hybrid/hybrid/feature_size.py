"""The size of a feature map as a function of the size of the map it comes from."""

import dataclasses
import itertools

import keras

# Large, so that a 3x3 convolution without padding, which takes two pixels, is no
# downsampling, and a Keras Applications network does not run out of pixels.
_PROBE_SIZE = 256


@dataclasses.dataclass(frozen=True)
class Scale:
    """(size * up + offset) // down, along one axis.

    Exact for any chain of convolutions, poolings and paddings, because floors nest.
    `up` is 0 where the size is fixed, as after a `Resizing` layer.

    >>> Scale(down=2, offset=1)(225)  # a 3x3 convolution of stride 2, padding "same"
    113
    """

    up: int = 1
    offset: int = 0
    down: int = 1

    def __call__(self, size):
        return (size * self.up + self.offset) // self.down

    def then(self, other):
        """The scale of two pieces of a network, this one and behind it `other`."""
        if other.up == 0:
            return other
        return Scale(
            up=self.up * other.up,
            offset=self.offset * other.up + other.offset * self.down,
            down=self.down * other.down,
        )


def measure(steps, source, target, source_spec, target_spec):
    """The scales (height, width) of a piece of a network; None where it has none.

    Args:
        steps: The `Step`s of the piece.
        source, target: Symbols of its input and output.
        source_spec, target_spec: Their `KerasTensor`s (B, H, W, C).
    """

    def output_sizes(size):
        shape = (1, size, size, source_spec.shape[-1])
        values = {source: keras.KerasTensor(shape, source_spec.dtype)}
        for step in steps:
            step.infer(values)
        return values[target].shape[1:3]

    try:
        sizes = _Memo(output_sizes)
        return tuple(_fit(lambda n, axis=axis: sizes[n][axis]) for axis in (0, 1))
    except Exception:  # e.g. a Reshape to a fixed size: whatever the layer raises
        return tuple(
            _fit_one(source_spec.shape[axis], target_spec.shape[axis]) for axis in (1, 2)
        )


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
    # Where the output grows by one, the floor is exact.
    grows_at = next(m for m in itertools.count(n + 1) if output_size(m) > here)
    return Scale(down=down, offset=down * output_size(grows_at) - grows_at)


def _fit_one(source, target):
    """From the only size known. For small maps less sure than `_fit`."""
    if not source or not target:
        return None
    down = max(1, round(source / target))
    return Scale(down=down, offset=target * down - source)
