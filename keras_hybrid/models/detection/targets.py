"""Match boxes to ground truth and sample them for the loss.

Shape shorthand: B images, N anchors or proposals, G ground-truth boxes (padded). Labels:
-1 for boxes that the loss ignores, 0 for background, classes from 1.
"""

import typing

import keras
from keras import ops

from keras_hybrid.models.detection.batched_gather import batched_gather
from keras_hybrid.training.types import Tensor

# Background with at least this share of its area in an ignore region is ignored.
_IGNORED = 0.5
_ROUNDING = 1e-5


class Targets(typing.NamedTuple):
    """The label of each box, int32 (B, N), and its ground truth, (B, N, 4) xyxy."""

    labels: Tensor
    boxes: Tensor


def assign(
    boxes: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    *,
    foreground_iou: float,
    background_iou: float,
    keep_best: bool = False,
) -> Targets:
    """Assigns to each box the ground truth that it overlaps most.

    >>> boxes = np.array([[0.0, 0, 10, 10], [0, 5, 10, 15], [50, 50, 60, 60]])
    >>> truth = np.array([[[0.0, 0, 10, 10]]])
    >>> settings = {"foreground_iou": 0.7, "background_iou": 0.3}
    >>> labels, matches = assign(boxes, truth, np.array([[1]]), **settings)
    >>> np.asarray(labels).tolist()
    [[1, -1, 0]]

    Args:
        boxes: (N, 4) or (B, N, 4), [x1, y1, x2, y2].
        gt_boxes: (B, G, 4), [x1, y1, x2, y2].
        gt_labels: int (B, G): classes from 1, -1 for ignore regions, 0 for padding.
        foreground_iou: IoU from which a box takes the class of its ground truth.
        background_iou: IoU below which a box is background; in between it is ignored.
        keep_best: Whether the boxes that overlap a ground truth most are foreground at
            any IoU above 0, so that each ground truth has some (Ren et al. 2015).

    Returns:
        `Targets`. Background that lies at least half in an ignore region has the label
        -1, as is usual for CityPersons (Zhang et al. 2017).
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
    """Whether a box lies in a single ignore region, bool (B, N)."""
    boxes, regions = ops.expand_dims(boxes, -2), ops.expand_dims(gt_boxes, 1)
    low = ops.maximum(boxes[..., :2], regions[..., :2])
    high = ops.minimum(boxes[..., 2:], regions[..., 2:])
    shared = ops.prod(ops.relu(high - low), axis=-1)
    area = ops.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
    is_region = ops.expand_dims(gt_labels < 0, 1)
    return ops.any(is_region & (shared >= _IGNORED * area) & (shared > 0), axis=2)


def sample(
    labels: Tensor,
    count: int,
    positive_fraction: float,
    seed: keras.random.SeedGenerator,
) -> tuple[Tensor, Tensor]:
    """Samples foreground and background boxes for the loss.

    Args:
        labels: int (B, N).
        count: Number of boxes to sample in each image.
        positive_fraction: Largest share of foreground among them; background fills the
            rest.
        seed: Source of the random numbers.

    Returns:
        (indices, sampled): int32 (B, count), and which of them are samples, bool
        (B, count). An image may have fewer than `count`.
    """
    count = min(count, labels.shape[1])
    priority = keras.random.uniform(ops.shape(labels), seed=seed)
    positive = labels > 0
    most = max(int(count * positive_fraction), 1)
    highest, _ = ops.top_k(ops.where(positive, priority, -1.0), most)
    chosen = positive & (priority >= highest[:, -1:])
    # The chosen foreground first, then background, then what may not be sampled.
    background = ops.where(ops.equal(labels, 0), priority, -1.0)
    scores, indices = ops.top_k(ops.where(chosen, 2.0, background), count)
    return indices, scores >= 0
