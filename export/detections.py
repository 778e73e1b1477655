"""Do two runs of a detector find the same? Box by box, in whatever order."""

import numpy as np

NAMES = {"boxes", "scores", "classes", "count"}
"""Outputs of a detector: (N, B, D, 4), (N, B, D), (N, B, D) and (N, B)."""

_SAME_IOU = 0.5


def pair_up(expected, received):
    """Pairs detections that are of one class and overlap, best scores first.

    Detections of nearly the same score may change places, and one at the threshold of the
    score or of the suppression may be there or not, without anything being wrong.

    Args:
        expected, received: Outputs by name.

    Returns:
        (pairs, matched): float64 (P, 2, 5) of what both say of a detection, the corners
        and the score; and the sum of all paired scores as a share of all scores, 1.0 if
        there is nothing to find.
    """
    shape = -1, expected["scores"].shape[-1]
    images = [
        {
            "boxes": run["boxes"].reshape(*shape, 4),
            "scores": run["scores"].reshape(shape),
            "classes": run["classes"].reshape(shape),
        }
        for run in (expected, received)
    ]
    pairs = [
        pair for i in range(len(images[0]["boxes"])) for pair in _of_image(images, i)
    ]
    pairs = np.reshape(pairs, (-1, 2, 5))
    total = sum(run["scores"].sum() for run in images)
    return pairs, float(pairs[..., 4].sum() / total) if total else 1.0


def _of_image(images, index):
    first, second = ({key: run[key][index] for key in run} for run in images)
    free = second["scores"] > 0
    for i in np.flatnonzero(first["scores"] > 0):
        fits = free & (second["classes"] == first["classes"][i])
        iou = np.where(fits, _iou(first["boxes"][i], second["boxes"]), 0)
        best = iou.argmax()
        if iou[best] >= _SAME_IOU:
            free[best] = False
            yield [
                [*run["boxes"][j], run["scores"][j]]
                for run, j in ((first, i), (second, best))
            ]


def _iou(box, boxes):
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    return np.divide(shared, areas - shared, where=shared > 0, out=0 * shared)
