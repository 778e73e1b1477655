"""What anchors and proposals are to become: their labels and boxes, and a sample of them.

Shapes: B images, N boxes looked at, G ground-truth boxes (padded). Labels are those of
detection: -1 nothing is asked of it, 0 background, from 1 on the classes.
"""

import typing

import keras
from keras import ops

from keras_hybrid.models.detection.batched_gather import batched_gather

# Share of a box within an ignore region from which on it is neither right nor wrong.
_IGNORED = 0.5
_ROUNDING = 1e-5


class Targets(typing.NamedTuple):
    """Of each box its label, int32 (B, N), and its ground truth, (B, N, 4) xyxy."""

    labels: typing.Any
    boxes: typing.Any


def assign(
    boxes, gt_boxes, gt_labels, *, foreground_iou, background_iou, keep_best=False
):
    """Gives each box the ground truth that it overlaps most.

    >>> boxes = np.array([[0.0, 0, 10, 10], [0, 5, 10, 15], [50, 50, 60, 60]])
    >>> truth = np.array([[[0.0, 0, 10, 10]]])
    >>> settings = {"foreground_iou": 0.7, "background_iou": 0.3}
    >>> labels, matches = assign(boxes, truth, np.array([[1]]), **settings)
    >>> np.asarray(labels).tolist()
    [[1, -1, 0]]

    Args:
        boxes: (N, 4) or (B, N, 4), [x1, y1, x2, y2].
        gt_boxes: (B, G, 4) likewise.
        gt_labels: int (B, G): classes from 1 on, -1 for ignore regions, 0 for padding.
        foreground_iou: From this IoU on it is of that class.
        background_iou: Below it is background; between them nothing is asked of it.
        keep_best: Whether boxes that overlap a ground truth most are of its class in
            any case, so that each one has some.

    Returns:
        `Targets`. Background that lies to a half or more in an ignore region has -1, as
        is usual for CityPersons (Zhang et al. 2017).
    """
    is_object = ops.expand_dims(gt_labels > 0, 1)
    iou = keras.utils.bounding_boxes.compute_iou(boxes, gt_boxes, "xyxy")
    iou = ops.where(is_object, iou, 0.0)
    best, matched = ops.max(iou, axis=2), ops.argmax(iou, axis=2)
    foreground = best >= foreground_iou
    if keep_best:
        of_truth = ops.max(iou, axis=1, keepdims=True)
        ties = (iou >= of_truth * (1 - _ROUNDING)) & (of_truth > 0)
        foreground |= ops.any(ties, axis=2)
    unclear = (best >= background_iou) | _in_regions(boxes, gt_boxes, gt_labels)
    labels = batched_gather(ops.cast(gt_labels, "int32"), matched)
    labels = ops.where(foreground, labels, ops.where(unclear, -1, 0))
    return Targets(labels, batched_gather(gt_boxes, matched))


def _in_regions(boxes, gt_boxes, gt_labels):
    """Whether a box lies in one ignore region (B, N)."""
    boxes, regions = ops.expand_dims(boxes, -2), ops.expand_dims(gt_boxes, 1)
    low = ops.maximum(boxes[..., :2], regions[..., :2])
    high = ops.minimum(boxes[..., 2:], regions[..., 2:])
    shared = ops.prod(ops.relu(high - low), axis=-1)
    area = ops.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
    is_region = ops.expand_dims(gt_labels < 0, 1)
    return ops.any(is_region & (shared >= _IGNORED * area) & (shared > 0), axis=2)


def sample(labels, count, positive_fraction, seed):
    """Draws boxes for the loss, at most so many of them of a class.

    Args:
        labels: int (B, N).
        count: How many to draw in each image.
        positive_fraction: At most this part of them has a class; the others are
            background, which fills the rest.
        seed: A `keras.random.SeedGenerator`.

    Returns:
        (indices, drawn): int32 (B, count) and bool (B, count), which of the indices
        stand for a draw. An image may have fewer.
    """
    count = min(count, labels.shape[1])
    draw = keras.random.uniform(ops.shape(labels), seed=seed)
    positive = labels > 0
    most = max(int(count * positive_fraction), 1)
    highest, _ = ops.top_k(ops.where(positive, draw, -1.0), most)
    chosen = positive & (draw >= highest[:, -1:])
    # Those first, then background, then what is not to be drawn.
    order = ops.where(ops.equal(labels, 0), draw, -1.0)
    scores, indices = ops.top_k(ops.where(chosen, 2.0, order), count)
    return indices, scores >= 0
