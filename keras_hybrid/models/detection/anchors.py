"""Anchors: boxes of one shape at many sizes and all positions, refined into proposals."""

import functools
import math
from collections.abc import Sequence

import keras
from keras import ops

from keras_hybrid.training.types import Tensor

# Shape of pedestrians, whose width is 0.41 of their height (Zhang et al. 2017).
HEIGHT_PER_WIDTH = 2.44
# Heights in pixels, from the smallest to the largest people of CityPersons.
HEIGHTS = tuple(round(37 * (742 / 37) ** (i / 10), 1) for i in range(11))
# A box is assigned to the coarsest feature map on which it is at least this many cells
# high. torchvision's anchors, whose area is 8 x 8 cells, are about as high in the shape
# of pedestrians.
CELLS = 12


def level_of(height: float, strides: Sequence[int]) -> int:
    """Returns the index of the feature map to which a box is assigned.

    >>> [level_of(height, strides=(8, 16, 32)) for height in (20, 191, 192, 500)]
    [0, 0, 1, 2]

    Args:
        height: Height of the box in image pixels.
        strides: Strides of the feature maps in increasing order.
    """
    return sum(height >= CELLS * stride for stride in strides[1:])


def heights_by_level(
    heights: Sequence[float], strides: Sequence[int]
) -> tuple[tuple[float, ...], ...]:
    """Assigns anchor heights to feature maps; returns a tuple of heights per stride.

    Raises:
        ValueError: A feature map gets no height.
    """
    levels = tuple(
        tuple(height for height in sorted(heights) if level_of(height, strides) == i)
        for i in range(len(strides))
    )
    if not all(levels):
        empty = strides[levels.index(())]
        raise ValueError(
            f"`anchor_heights` must have some for the map of stride {empty}, or "
            f"`feature_strides` must leave it out. Received: anchor_heights={heights}, "
            f"feature_strides={strides}"
        )
    return levels


def anchors_of(
    map_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    levels: Sequence[Sequence[float]],
    height_per_width: float = HEIGHT_PER_WIDTH,
) -> Tensor:
    """Makes all anchors of an image; those of a cell are next to each other.

    keras-cv makes them on the TensorFlow backend. It imports TensorFlow on every backend,
    so `map_anchors` makes them on the others.

    Args:
        map_sizes: (height, width) of each feature map in cells.
        strides: Stride of each feature map in pixels.
        levels: Anchor heights of each feature map, as `heights_by_level` returns them.
        height_per_width: Aspect ratio of all anchors.

    Returns:
        float32 (A, 4), [x1, y1, x2, y2] in pixels, one feature map after another; A is
        the sum of height * width * number of heights over the maps.
    """
    make = map_anchors
    if keras.backend.backend() == "tensorflow":
        make = _map_anchors_of_keras_cv
    maps = zip(map_sizes, strides, levels, strict=True)
    return ops.concatenate([make(*settings, height_per_width) for settings in maps])


def map_anchors(
    map_size: tuple[int, int],
    stride: int,
    heights: Sequence[float],
    height_per_width: float,
) -> Tensor:
    """Makes the anchors of one feature map, as keras-cv's `AnchorGenerator` does.

    Args:
        map_size: (height, width) of the feature map in cells.
        stride: Stride of the feature map in pixels.
        heights: Heights of the K anchors of each cell in pixels.
        height_per_width: Aspect ratio of all anchors.

    Returns:
        float32 (height * width * K, 4), [x1, y1, x2, y2] in pixels.
    """
    rows, columns = map_size
    x = stride * (ops.arange(columns, dtype="float32") + 0.5)
    y = stride * (ops.arange(rows, dtype="float32") + 0.5)
    # (rows, columns, 1, 2), which broadcasts with the (K, 2) of the sizes.
    middles = ops.expand_dims(ops.stack(ops.meshgrid(x, y), axis=-1), axis=2)
    sizes = [(height / height_per_width, height) for height in heights]
    half = ops.convert_to_tensor(sizes, "float32") / 2
    boxes = ops.concatenate([middles - half, middles + half], axis=-1)
    return ops.reshape(boxes, (-1, 4))


def _map_anchors_of_keras_cv(map_size, stride, heights, height_per_width):
    settings = stride, tuple(heights), height_per_width
    if all(isinstance(cells, int) for cells in map_size):
        return _anchors_of_known_size(tuple(map_size), *settings)
    return _by_keras_cv(map_size, *settings)


@functools.lru_cache(maxsize=64)
def _anchors_of_known_size(*settings):
    """The same as an array: a constant of every graph, made once."""
    import tensorflow as tf

    with tf.init_scope():
        return _by_keras_cv(*settings).numpy()


def _by_keras_cv(map_size, stride, heights, height_per_width):
    import keras_cv

    generator = keras_cv.layers.AnchorGenerator(
        "xyxy",
        # Anchors of size s have the height s / sqrt(width per height).
        sizes=[heights[0] / math.sqrt(height_per_width)],
        scales=[height / heights[0] for height in heights],
        aspect_ratios=[1 / height_per_width],
        strides=[stride],
    )
    rows, columns = map_size
    return generator(image_shape=(rows * stride, columns * stride, 3))[0]
