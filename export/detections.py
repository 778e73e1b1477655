"""Compares the detections of two runs, box by box and in any order."""

from collections.abc import Mapping

import numpy as np

NAMES = {"boxes", "scores", "classes", "count"}
"""Outputs of a detector: (N, B, D, 4), (N, B, D), (N, B, D) and (N, B)."""

_SAME_IOU = 0.5


def pair_up(
    expected: Mapping[str, np.ndarray], received: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, float]:
    """Pairs overlapping detections of the same class, highest scores first.

    Neither run is wrong if detections of nearly the same score swap places, or if one at
    the threshold of the scores or of the suppression is there in one run only.

    Args:
        expected: Outputs of one run, by name.
        received: Outputs of the other run.

    Returns:
        (pairs, matched): float64 (P, 2, 5), the corners and the score that each run has
        for a detection; and the sum of all paired scores as a share of all scores, 1.0 if
        nothing was detected.
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
    paired = [
        pair for i in range(len(images[0]["boxes"])) for pair in _of_image(images, i)
    ]
    pairs = np.reshape(paired, (-1, 2, 5))
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
