"""Proposals: the anchors most likely to hold an object, moved by their deltas."""

import typing
from collections.abc import Sequence

import keras
from keras import ops

from keras_hybrid.models.detection.batched_gather import batched_gather
from keras_hybrid.models.detection.nms import non_max_suppression
from keras_hybrid.training.types import Tensor

# Score of a box that is no proposal.
_NO_SCORE = -1e30
# exp() of this scales a side by 62, the limit of torchvision.
_MAX_LOG_SCALE = 4.135


class Proposals(typing.NamedTuple):
    """Boxes (B, P, 4) xyxy, best first, and which of them are proposals, bool (B, P)."""

    boxes: Tensor
    valid: Tensor


def decode(
    deltas: Tensor, boxes: Tensor, variance: Sequence[float], image_size: tuple[int, int]
) -> Tensor:
    """Moves boxes by deltas and clips them to the image.

    Args:
        deltas: (B, N, 4): shift of the centre (x, y) in units of the box's width and
            height, and logarithm of the scale of (width, height); each divided by its
            `variance`.
        boxes: (N, 4) or (B, N, 4), [x1, y1, x2, y2].
        variance: Divisors of the four deltas.
        image_size: (height, width) in pixels.

    Returns:
        float32 (B, N, 4), [x1, y1, x2, y2].
    """
    deltas = ops.cast(deltas, "float32")
    largest = ops.array([float("inf")] * 2 + [_MAX_LOG_SCALE / v for v in variance[2:]])
    boxes = keras.utils.bounding_boxes.decode_deltas_to_boxes(
        boxes,
        ops.minimum(deltas, largest),
        anchor_format="xyxy",
        box_format="xyxy",
        encoded_format="center_xywh",
        variance=variance,
    )
    height, width = image_size
    limits = ops.array([width, height, width, height], dtype="float32")
    return ops.clip(boxes, 0.0, limits)


def encode(boxes: Tensor, gt_boxes: Tensor, variance: Sequence[float]) -> Tensor:
    """Computes the deltas with which `decode` moves boxes to their ground truth.

    Args:
        boxes: (B, N, 4), [x1, y1, x2, y2].
        gt_boxes: Ground truth of each box, (B, N, 4), [x1, y1, x2, y2].
        variance: Divisors of the four deltas.

    Returns:
        Deltas (B, N, 4).
    """
    return keras.utils.bounding_boxes.encode_box_to_deltas(
        boxes,
        gt_boxes,
        anchor_format="xyxy",
        box_format="xyxy",
        encoding_format="center_xywh",
        variance=variance,
    )


def propose(
    logits: Tensor,
    boxes: Tensor,
    anchors_per_level: Sequence[int],
    *,
    pre_nms_topk: int,
    count: int,
    iou_threshold: float,
) -> Proposals:
    """Selects the best boxes of all feature maps, without those that overlap better ones.

    Args:
        logits: Objectness (B, A), one feature map after another.
        boxes: Decoded anchors (B, A, 4), [x1, y1, x2, y2], in the same order.
        anchors_per_level: Number of the A anchors on each feature map.
        pre_nms_topk: Number of boxes per feature map that enter the suppression.
        count: Number of proposals to keep.
        iou_threshold: IoU above which a box of the same feature map is suppressed.

    Returns:
        `Proposals` of `count` boxes, or of all candidates if there are fewer.
    """
    scores, best = [], []
    start = 0
    for anchors in anchors_per_level:
        values = ops.cast(logits[:, start : start + anchors], "float32")
        top, indices = ops.top_k(values, min(pre_nms_topk, anchors))
        candidates = batched_gather(boxes, indices + start)
        every = ops.ones_like(top, dtype="bool")
        kept, valid = non_max_suppression(
            candidates, every, min(count, top.shape[1]), iou_threshold
        )
        scores.append(ops.where(valid, batched_gather(top, kept), _NO_SCORE))
        best.append(batched_gather(candidates, kept))
        start += anchors
    scores, best = ops.concatenate(scores, axis=1), ops.concatenate(best, axis=1)
    scores, indices = ops.top_k(scores, min(count, scores.shape[1]))
    return Proposals(batched_gather(best, indices), scores > _NO_SCORE)
