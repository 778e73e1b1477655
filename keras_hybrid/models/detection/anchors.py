"""Anchors: boxes of one shape, many sizes and all places; proposals start from them."""

import math

from keras import ops

# Of pedestrians; width is 0.41 of the height (Zhang et al. 2017).
HEIGHT_PER_WIDTH = 2.44
# The span of CityPersons' people in pixels.
HEIGHTS = tuple(round(37 * (742 / 37) ** (i / 10), 1) for i in range(11))
# A box is looked for on the coarsest map on which it is this many cells high; as
# torchvision's anchors, whose area is 8 x 8 cells, are with pedestrians' shape.
CELLS = 12


def level_of(height, strides):
    """Index of the map on which a box is looked for.

    >>> [level_of(height, strides=(8, 16, 32)) for height in (20, 191, 192, 500)]
    [0, 0, 1, 2]

    Args:
        height: Of the box, in pixels of the image.
        strides: Of the maps, rising.
    """
    return sum(height >= CELLS * stride for stride in strides[1:])


def heights_by_level(heights, strides):
    """The anchors' heights of each map: a tuple for each of the strides.

    Raises:
        ValueError: A map is left without.
    """
    levels = tuple(
        tuple(height for height in sorted(heights) if level_of(height, strides) == i)
        for i in range(len(strides))
    )
    if not all(levels):
        lonely = strides[levels.index(())]
        raise ValueError(
            f"`anchor_heights` must have some for the map of stride {lonely}, or "
            f"`feature_strides` go without it. Received: anchor_heights={heights}, "
            f"feature_strides={strides}"
        )
    return levels


def anchors_of(map_sizes, strides, levels, height_per_width=HEIGHT_PER_WIDTH):
    """All anchors of an image, those of a cell next to each other.

    Args:
        map_sizes: (height, width) of each map in cells.
        strides: Of each map, in pixels.
        levels: What `heights_by_level` returns.
        height_per_width: Shape of all anchors.

    Returns:
        float32 (A, 4), [x1, y1, x2, y2] in pixels, a map after the other; A is the sum
        of height * width * number of heights.
    """
    import keras_cv  # which imports TensorFlow on any backend

    boxes = []
    for (rows, columns), stride, heights in zip(map_sizes, strides, levels, strict=True):
        generator = keras_cv.layers.AnchorGenerator(
            "xyxy",
            # Anchors of size s have the height s / sqrt(width per height).
            sizes=[heights[0] / math.sqrt(height_per_width)],
            scales=[height / heights[0] for height in heights],
            aspect_ratios=[1 / height_per_width],
            strides=[stride],
        )
        by_level = generator(image_shape=(rows * stride, columns * stride, 3))
        boxes.append(by_level[0])
    return ops.concatenate(boxes, axis=0)
