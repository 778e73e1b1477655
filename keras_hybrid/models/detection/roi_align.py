"""RoIAlign (He et al., "Mask R-CNN", 2017): the features of boxes, all in one size."""

from collections.abc import Sequence

from keras import ops

from keras_hybrid.models.detection.anchors import CELLS
from keras_hybrid.training.types import Tensor

_SAMPLES = 2


def pyramid_roi_align(
    maps: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], size: int = 7
) -> Tensor:
    """Applies `roi_align` to each box on the feature map that has anchors of its height.

    Args:
        maps: Feature maps (B, H, W, C) in order of increasing stride.
        boxes: (B, N, 4), [x1, y1, x2, y2] in pixels.
        strides: Image pixels per cell of each feature map.
        size: Number of grid cells in either direction.

    Returns:
        (B, N, size, size, C).
    """
    heights = boxes[..., 3] - boxes[..., 1]
    level = ops.zeros_like(heights, dtype="int32")
    for stride in strides[1:]:
        level += ops.cast(heights >= CELLS * stride, "int32")
    pooled = 0
    for i, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        belongs = ops.cast(ops.equal(level, i), features.dtype)
        belongs = ops.reshape(belongs, (-1, boxes.shape[1], 1, 1, 1))
        pooled += belongs * roi_align(features, boxes, stride, size)
    return pooled


def roi_align(features: Tensor, boxes: Tensor, stride: int, size: int = 7) -> Tensor:
    """Averages bilinear samples of a feature map in each cell of a grid over each box.

    Each cell takes 2 x 2 samples, which gives the same values as torchvision with
    `aligned=True` and `sampling_ratio=2`. Boxes are axis-aligned, so that sampling one
    takes two matrix products: rows (size, H), map (H, W), columns (W, size). These run on
    any device and have gradients with respect to the map.

    >>> ramp = np.arange(4.0).reshape(1, 1, 4, 1).repeat(4, axis=1)  # 0 1 2 3 in rows
    >>> boxes = np.array([[[8.0, 8.0, 24.0, 24.0]]])
    >>> middle = roi_align(ramp, boxes, stride=8, size=1)
    >>> np.asarray(middle).item()  # from 1 to 3, less half a cell
    1.5

    Args:
        features: Feature map (B, H, W, C); its first cell is centred at half a stride.
        boxes: (B, N, 4), [x1, y1, x2, y2] in pixels.
        stride: Image pixels per cell of the feature map.
        size: Number of grid cells in either direction.

    Returns:
        (B, N, size, size, C) with the dtype of `features`. Samples more than a cell
        outside the map are 0.
    """
    height, width, channels = features.shape[1:]
    boxes = ops.cast(boxes, "float32") / stride
    rows = _interpolation(boxes[..., 1], boxes[..., 3], height, size)
    columns = _interpolation(boxes[..., 0], boxes[..., 2], width, size)
    return _sample(features, rows, columns)


def _sample(features, rows, columns):
    """rows (B, N, S, H) x features (B, H, W, C) x columns (B, N, S, W)."""
    height, width, channels = features.shape[1:]
    count, size = rows.shape[1:3]
    rows = ops.cast(ops.reshape(rows, (-1, count * size, height)), features.dtype)
    x = ops.matmul(rows, ops.reshape(features, (-1, height, width * channels)))
    x = ops.reshape(x, (-1, width, channels))
    # Repeated for each row of the grid: LiteRT's matrix products do not broadcast.
    columns = ops.tile(ops.expand_dims(columns, 2), (1, 1, size, 1, 1))
    columns = ops.cast(ops.reshape(columns, (-1, size, width)), features.dtype)
    return ops.reshape(ops.matmul(columns, x), (-1, count, size, size, channels))


def _interpolation(start, end, length, size):
    """Weight of each map cell in each grid cell along one axis, (B, N, size, length)."""
    samples = (ops.arange(size * _SAMPLES, dtype="float32") + 0.5) / (size * _SAMPLES)
    start, end = ops.expand_dims(start, -1), ops.expand_dims(end, -1)
    # In units of map cells, with integers at the centres of the cells.
    at = start + (end - start) * samples - 0.5
    inside = ops.cast((at >= -1) & (at <= length), "float32")
    at = ops.expand_dims(ops.clip(at, 0, length - 1), -1)
    cells = ops.arange(length, dtype="float32")
    weights = ops.relu(1 - ops.abs(at - cells)) * ops.expand_dims(inside, -1)
    shape = (-1, start.shape[1], size, _SAMPLES, length)
    return ops.mean(ops.reshape(weights, shape), axis=-2)
