"""Crops of images with their labels, computed by TensorFlow or by NumPy.

Each function takes tensors, or NumPy arrays where TensorFlow need not be installed, and
computes with the library of its first argument. The two differ in how they resize:
`numpy_ops.resized` takes uint8 and rounds, as Pillow does.

Random numbers are arguments. `augment` of each task draws them from a seed and makes a
`Transform` for `tf.data`. A `box` is the top, left, height and width of the part of an
image that becomes the crop, int32 (4,); it starts inside the image but may extend beyond
it. `part` is the pixels of the image in that box, see `cut`. A `place` is a pair of
numbers, uniform in 0..1, for the top and the left of the crop. A `geometry` is described
in `detection.augment`.
"""

from types import ModuleType
from typing import Any

import numpy as np

from keras_hybrid.data import numpy_ops
from keras_hybrid.training.types import Tensor

IGNORED = 255
"""Label of a pixel that has no class."""
PADDING = 4
"""Pixels around small images (He et al., "Deep Residual Learning", section 4.2)."""
LABEL_MAP_SCALES = 0.5, 1.5
"""Range of the scales of crops with label maps (Chen et al., "DeepLab", section 4.1)."""
PEOPLE_SCALES = 0.4, 1.5
"""Range of the scales of crops with people: CSP (Liu et al. 2019) on CityPersons."""
BRIGHTNESS = 0.5, 2.0
"""Range of the brightness factors of crops with people (CSP)."""
# An object with less than this fraction of its area inside a crop is ignored.
_INSIDE = 0.5


def _ops_for(x: Any) -> ModuleType:
    """The module of the operations for arrays like `x`."""
    if isinstance(x, np.ndarray):
        return numpy_ops
    from keras_hybrid.data import tensorflow_ops

    return tensorflow_ops


def cut(pixels: Tensor, box: Tensor) -> Tensor:
    """Returns the pixels (H, W, ...) that lie in a box."""
    top, left, height, width = box[0], box[1], box[2], box[3]
    return pixels[top : top + height, left : left + width]


def shifted(image: Tensor, corner: Tensor, padding: int, mirrored: Tensor) -> Tensor:
    """Crops an image (size, size, 3) out of itself with `padding` black pixels around it.

    Args:
        image: The image.
        corner: Top and left in the padded image, 0 to 2 * padding, integers (2,).
        padding: Number of pixels.
        mirrored: Whether to mirror the crop, a scalar bool.
    """
    ops, size = _ops_for(image), image.shape[0]
    image = ops.pad(image, [[padding, padding], [padding, padding], [0, 0]])
    top, left = corner[0], corner[1]
    return ops.mirrored_if(mirrored, image[top : top + size, left : left + size])


def box_anywhere(
    image_size: Tensor, size: tuple[int, int], scale: Tensor, place: Tensor
) -> Tensor:
    """Returns a box that becomes a crop of a size when it is scaled.

    Args:
        image_size: (height, width) of the image in pixels, int32 (2,).
        size: (height, width) of the crop in pixels.
        scale: Scale of the crop, a float scalar.
        place: See the module's docstring.
    """
    ops = _ops_for(image_size)
    part = _part_size(ops, size, scale)
    room = ops.cast(ops.maximum(image_size - part, 0) + 1, "float32")
    return ops.concat([ops.cast(place * room, "int32"), part], axis=0)


def box_with_object(
    image_size: Tensor,
    size: tuple[int, int],
    scale: Tensor,
    place: Tensor,
    found: Tensor,
    around: Tensor,
) -> Tensor:
    """Returns a box that contains an object whole, or is filled by it.

    Args:
        image_size, size, scale, place: As for `box_anywhere`.
        found: Whether there is an object, a scalar bool; otherwise the box is anywhere.
        around: Box of the object, [x1, y1, x2, y2] in pixels, float32 (4,).
    """
    ops = _ops_for(image_size)
    part = _part_size(ops, size, scale)
    room = ops.cast(ops.maximum(image_size, part) - part, "float32")
    # Between these two corners (either can be lower) the crop contains the object or is
    # filled by it.
    one = ops.clip(around[1::-1], 0.0, room)
    other = ops.clip(around[:1:-1] - ops.cast(part, "float32"), 0.0, room)
    low = ops.where(found, ops.minimum(one, other), 0.0)
    high = ops.where(found, ops.maximum(one, other), room)
    corner = ops.minimum(ops.floor(low + place * (high - low + 1)), room)
    return ops.concat([ops.cast(corner, "int32"), part], axis=0)


def _part_size(ops, size, scale):
    return ops.cast(ops.round(ops.cast(size, "float32") / scale), "int32")


def with_label_map(
    part: Tensor,
    labels: Tensor,
    box: Tensor,
    size: tuple[int, int],
    mirrored: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns the crop float32 (*size, 3) and its label map (*size).

    Args:
        part: Image in the box, uint8 (H, W, 3).
        labels: Label map in the box, uint8 (H, W).
        box: See the module's docstring.
        size: (height, width) of the crop in pixels.
        mirrored: Whether to mirror the crop, a scalar bool.
    """
    ops = _ops_for(part)
    part, labels = padded_with_labels(part, labels, box[2:])
    part, labels = ops.resized(part, size), ops.resized_labels(labels, size)
    return ops.mirrored_if(mirrored, part), ops.mirrored_if(mirrored, labels)


def padded_with_labels(
    image: Tensor, labels: Tensor, least: Tensor
) -> tuple[Tensor, Tensor]:
    """Pads at the right and at the bottom to at least `least` (height, width).

    Padding is black and has the label `IGNORED`.
    """
    ops = _ops_for(image)
    after = ops.maximum(least - ops.shape(labels), 0)
    padding = [[0, after[0]], [0, after[1]]]
    return ops.cond(
        ops.any(after > 0),
        lambda: (
            ops.pad(image, [*padding, [0, 0]]),
            ops.pad(labels, padding, constant_values=IGNORED),
        ),
        lambda: (image, labels),
    )


def with_people(
    part: Tensor,
    box: Tensor,
    size: tuple[int, int],
    mirrored: Tensor,
    brightness: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns the crop float32 (*size, 3) and its geometry.

    Args:
        part: Image in the box, uint8 (H, W, 3).
        box: See the module's docstring.
        size: (height, width) of the crop in pixels.
        mirrored: Whether to mirror the crop, a scalar bool.
        brightness: Factor of the pixels, a float scalar.
    """
    ops = _ops_for(part)
    part = ops.mirrored_if(mirrored, ops.resized(_padded(ops, part, box[2:]), size))
    box = ops.cast(box, "float32")
    y, x = size[0] / box[2], size[1] / box[3]
    geometry = [x, y, x * box[1], y * box[0], ops.cast(mirrored, "float32")]
    return ops.clip(brightness * part, 0.0, 255.0), ops.stack(geometry)


def enlarged(image: Tensor, upscale: float, multiple: int) -> tuple[Tensor, Tensor]:
    """Enlarges an image uint8 (H, W, 3), and pads it to multiples of a number.

    Args:
        image: The image.
        upscale: Factor of height and width.
        multiple: Number of pixels of which the sides are multiples.

    Returns:
        (float32 (h, w, 3), geometry).
    """
    ops = _ops_for(image)
    before = ops.cast(ops.shape(image)[:2], "float32")
    size = ops.cast(ops.round(before * upscale), "int32")
    factors = ops.cast(size, "float32") / before
    geometry = ops.stack([factors[1], factors[0], 0.0, 0.0, 0.0])
    geometry = ops.cast(geometry, "float32")
    image = _padded(ops, ops.resized(image, size), -(-size // multiple) * multiple)
    return image, geometry


def _padded(ops, image, least):
    """Pads with black at the right and bottom to at least `least` (height, width)."""
    after = ops.maximum(least - ops.shape(image)[:2], 0)
    padding = [[0, after[0]], [0, after[1]], [0, 0]]
    return ops.cond(ops.any(after > 0), lambda: ops.pad(image, padding), lambda: image)


def move(
    boxes: Tensor, labels: Tensor, geometry: Tensor, size: Tensor | tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Moves boxes to where they are in the transformed image.

    An object with less than half of its area inside the image becomes a region to ignore;
    a box that is entirely outside becomes padding.

    Args:
        boxes: float32 (G, 4), [x1, y1, x2, y2] in pixels of the original image.
        labels: int32 (G,), see `detection.augment`.
        geometry: float32 (5,), see there.
        size: Size (height, width) of the transformed image in pixels.

    Returns:
        (boxes, labels) of the same shapes; boxes are clipped to the image.
    """
    ops = _ops_for(boxes)
    limits = ops.cast(size, "float32")[::-1]
    factors, cut_off, mirrored = geometry[:2], geometry[2:4], geometry[4] > 0
    low, high = boxes[..., :2] * factors - cut_off, boxes[..., 2:] * factors - cut_off
    flipped_low = ops.stack([limits[0] - high[..., 0], low[..., 1]], axis=-1)
    flipped_high = ops.stack([limits[0] - low[..., 0], high[..., 1]], axis=-1)
    low = ops.where(mirrored, flipped_low, low)
    high = ops.where(mirrored, flipped_high, high)
    inner_low, inner_high = ops.clip(low, 0, limits), ops.clip(high, 0, limits)
    area = ops.prod(high - low, axis=-1)
    inside = ops.prod(inner_high - inner_low, axis=-1)
    labels = ops.where((labels > 0) & (inside < _INSIDE * area), -1, labels)
    labels = ops.where(inside > 0, labels, 0)
    boxes = ops.concat([inner_low, inner_high], axis=-1)
    return ops.where(labels[..., None] == 0, 0.0, boxes), labels
