"""Proposals: the anchors that look most like an object, moved to where it seems to be."""

import typing

import keras
from keras import ops

from keras_hybrid.models.detection.batched_gather import batched_gather
from keras_hybrid.models.detection.nms import non_max_suppression

# Of what is no proposal.
_NO_SCORE = -1e30
# exp() of more would be a box 62 times as large as its anchor (as torchvision).
_MAX_LOG_SCALE = 4.135


class Proposals(typing.NamedTuple):
    """Boxes (B, P, 4) xyxy, best first, and which of them are proposals, bool (B, P)."""

    boxes: typing.Any
    valid: typing.Any


def decode(deltas, boxes, variance, image_size):
    """Moves boxes by deltas and clips them to the image.

    Args:
        deltas: (B, N, 4): shift of the middle (x, y) in units of the box, logarithm of
            the factor of (width, height); each divided by its `variance`.
        boxes: (N, 4) or (B, N, 4), [x1, y1, x2, y2].
        variance: Four numbers.
        image_size: (height, width).

    Returns:
        (B, N, 4), float32.
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


def encode(boxes, gt_boxes, variance):
    """The deltas with which `decode` makes ground truth of boxes (B, N, 4)."""
    return keras.utils.bounding_boxes.encode_box_to_deltas(
        boxes,
        gt_boxes,
        anchor_format="xyxy",
        box_format="xyxy",
        encoding_format="center_xywh",
        variance=variance,
    )


def propose(logits, boxes, anchors_per_level, *, pre_nms_topk, count, iou_threshold):
    """The best boxes of every map, without those that overlap better ones.

    Args:
        logits: Objectness (B, A), a map after the other.
        boxes: What their anchors became (B, A, 4).
        anchors_per_level: How many of the A belong to each map.
        pre_nms_topk: How many of a map are looked at.
        count: How many to keep.
        iou_threshold: Of the suppression, within a map.

    Returns:
        `Proposals` of `count` boxes, of fewer if there are not as many anchors.
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
