"""Feature maps as tokens: (B, P + height * width, C).

Transformers hold a map as a sequence: P prefix tokens (class, register or distillation
tokens), then the pixels of the map, row by row.
"""

import itertools
from collections.abc import Iterable, Sequence

from keras import ops

from keras_hybrid.training.types import Tensor

# Class token, distillation token and registers; published networks have at most five.
PREFIXES = range(9)


def to_map(tokens: Tensor, prefix: int, size: Sequence[int | Tensor]) -> Tensor:
    """Returns the map (B, *size, C) of tokens (B, prefix + height * width, C)."""
    pixels = tokens[:, prefix:]
    return ops.reshape(pixels, (ops.shape(tokens)[0], *size, tokens.shape[-1]))


def from_map(x: Tensor) -> Tensor:
    """Returns the tokens (B, height * width, C) of a map (B, height, width, C)."""
    batch, height, width, _ = ops.shape(x)
    return ops.reshape(x, (batch, height * width, x.shape[-1]))


def fit(
    count: int,
    size: Sequence[int],
    strides: Iterable[int] = (1,),
    prefixes: Iterable[int] = PREFIXES,
) -> tuple[int, int, bool] | None:
    """Finds how `count` tokens can come from a map of `size` (height, width).

    Args:
        count: Number of tokens, prefix tokens included.
        size: Height and width of the map.
        strides: Strides between the map and the grid of tokens that are possible.
        prefixes: Numbers of prefix tokens that are possible.

    Returns:
        (stride, prefix tokens, whether the stride leaves a remainder that is rounded
        up), or None. Strides that divide the size come first, then few prefix tokens.
    """
    height, width = size
    for rounds_up, divides in ((False, True), (True, False), (False, False)):
        for prefix, stride in itertools.product(prefixes, strides):
            if divides == bool(height % stride or width % stride):
                continue
            extra = stride - 1 if rounds_up else 0
            grid = ((height + extra) // stride) * ((width + extra) // stride)
            if grid and grid + prefix == count:
                return stride, prefix, rounds_up
    return None
