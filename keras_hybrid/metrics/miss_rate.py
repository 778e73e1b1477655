"""Log-average miss rate of pedestrian detections, as CityPersons computes it."""

import math
import os
import typing
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from keras_hybrid.metrics import coco_categories, records

_IOU = 0.5
_DETECTIONS_PER_IMAGE = 1000
# Detections count up to this factor below and above the subset's range of heights.
_HEIGHT_MARGIN = 1.25
# False positives per image, rounded as in the official evaluator.
_FPPI = (0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000)
_UNLIMITED = 1e10


class Subset(typing.NamedTuple):
    """The pedestrians that count; both ends of a range are included.

    Attributes:
        height_range: Height of the full box in pixels.
        visibility_range: Visible share of the full box's area, from 0 to 1.
    """

    height_range: tuple[float, float]
    visibility_range: tuple[float, float] = (0.0, _UNLIMITED)


# As in the official evaluator; elsewhere "heavy" may mean another range.
SUBSETS = {
    "reasonable": Subset((50, _UNLIMITED), (0.65, _UNLIMITED)),
    "reasonable_small": Subset((50, 75), (0.65, _UNLIMITED)),
    "heavy": Subset((50, _UNLIMITED), (0.2, 0.65)),
    "all": Subset((20, _UNLIMITED), (0.2, _UNLIMITED)),
}


class MissRateCurve(typing.NamedTuple):
    """Miss rate over false positives per image, from the highest score down.

    Attributes:
        scores: Scores of the detections that count, in descending order (N,).
        fppi: False positives per image with each score as the threshold (N,).
        miss_rate: Share of pedestrians missed at that threshold, from 0 to 1 (N,).
        positives: Number of pedestrians to find.
    """

    scores: np.ndarray
    fppi: np.ndarray
    miss_rate: np.ndarray
    positives: int


def log_average_miss_rate(
    ground_truth: Mapping[str, typing.Any] | str | os.PathLike,
    detections: Sequence[Mapping[str, typing.Any]] | str | os.PathLike,
    subset: str | Subset = "reasonable",
    category_id: int | str = 1,
) -> float:
    """Returns the log-average miss rate MR^-2 in percent; 0 is best.

    It is the geometric mean of the miss rates at nine rates of false positives per image,
    evenly spaced in log space from 10^-2 to 1 (Dollar et al. 2012). It follows the
    evaluator of CityPersons (Zhang et al. 2017) in every detail, quirks included, so that
    results agree with published ones: with fewer than 100 images the first false positive
    may lie above a rate, and the recall at that rate is then the final recall.

    Example:

    >>> truth = {
    ...     "images": [{"id": 1}],
    ...     "annotations": [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 41, 100]}],
    ... }
    >>> found = [
    ...     {"image_id": 1, "category_id": 1, "bbox": [12, 10, 41, 100], "score": 0.9}
    ... ]
    >>> log_average_miss_rate(truth, found), log_average_miss_rate(truth, [])
    (0.0, 100.0)

    Args:
        ground_truth: COCO-style dictionary, or the path of its JSON file. `"images"` have
            an `"id"`; `"annotations"` have an `"image_id"`, a `"bbox"` [x, y, width,
            height] in pixels, and may have a `"category_id"`, `"ignore"` (1: not to be
            found, and not a false positive if found), `"height"` of the full box (by
            default that of `"bbox"`) and `"vis_ratio"` (by default 1). `"iscrowd"` is
            ignored. Null, empty and negative boxes are left out, with a warning.
        detections: List of dictionaries with `"image_id"`, `"bbox"`, `"score"` and
            optionally `"category_id"`; or the path of its JSON file.
        subset: `"reasonable"`, `"reasonable_small"`, `"heavy"`, `"all"` or a `Subset`.
        category_id: Id of the category that counts, 1 in the official evaluator. A
            warning is logged if the `"categories"` of the ground truth do not name it
            person or pedestrian.

    Returns:
        A float from 0 to 100: 100 if nothing was detected, NaN if the subset has no
        pedestrian, for which the official evaluator prints -100.

    Raises:
        ValueError: A record is malformed; the message has its index.
        OSError: A file cannot be read.
    """
    curve = miss_rate_curve(ground_truth, detections, subset, category_id)
    if not curve.positives:
        return math.nan
    if not len(curve.fppi):
        return 100.0
    # With few images an index may be -1, a quirk of the official evaluator.
    at = np.searchsorted(curve.fppi, _FPPI, side="right") - 1
    with np.errstate(divide="ignore"):
        return float(100 * np.exp(np.mean(np.log(curve.miss_rate[at]))))


def miss_rate_curve(
    ground_truth: Mapping[str, typing.Any] | str | os.PathLike,
    detections: Sequence[Mapping[str, typing.Any]] | str | os.PathLike,
    subset: str | Subset = "reasonable",
    category_id: int | str = 1,
) -> MissRateCurve:
    """Returns the `MissRateCurve` that `log_average_miss_rate` averages.

    It takes the same arguments and raises the same errors.
    """
    subset = _subset(subset)
    truth = _read_truth(ground_truth, subset, category_id)
    found = _read_detections(detections, truth, subset, category_id)
    scores, hits, positives = [np.zeros(0)], [np.zeros(0, bool)], 0
    for image_id in sorted(truth, key=records.order_of):
        boxes, ignored = truth[image_id]
        positives += int(np.sum(~ignored))
        if image_id in found:
            image_scores, detected = found[image_id]
            counted, hit = _match(boxes, ignored, detected)
            scores.append(image_scores[counted])
            hits.append(hit[counted])
    all_scores, is_hit = np.concatenate(scores), np.concatenate(hits)
    order = np.argsort(-all_scores, kind="stable")
    is_hit = is_hit[order]
    with np.errstate(invalid="ignore"):
        miss_rate = 1 - np.cumsum(is_hit) / np.float64(positives)
    return MissRateCurve(
        all_scores[order], np.cumsum(~is_hit) / max(len(truth), 1), miss_rate, positives
    )


def _match(boxes, ignored, detected):
    """Whether each detection of an image counts, and whether it is a hit.

    Args:
        boxes: Ground truth (G, 4), [x, y, width, height].
        ignored: Whether each of these boxes is ignored (G,).
        detected: Detected boxes (D, 4), highest score first.
    """
    intersections = _intersections(detected, boxes)
    areas = detected[:, 2:3] * detected[:, 3:4]
    unions = areas + boxes[:, 2] * boxes[:, 3] - intersections
    # Boxes without an area intersect nothing.
    shared = intersections > 0
    iou = np.divide(intersections, unions, where=shared, out=0 * unions)[:, ~ignored]
    covered = np.divide(intersections, areas, where=shared, out=0 * unions)[:, ignored]
    counted = ~(covered >= _IOU).any(axis=1)
    hit = np.zeros(len(detected), bool)
    for index in np.flatnonzero((iou >= _IOU).any(axis=1)):
        # Of boxes with the same IoU, the last one in the file is matched.
        best = iou.shape[1] - 1 - np.argmax(iou[index, ::-1])
        if iou[index, best] >= _IOU:
            hit[index] = counted[index] = True
            iou[:, best] = 0
    return counted, hit


def _intersections(boxes, others):
    """Areas of intersection (N, M) of (N, 4) and (M, 4), [x, y, width, height]."""
    sides = [
        np.minimum(
            (boxes[:, axis] + boxes[:, axis + 2])[:, None],
            others[:, axis] + others[:, axis + 2],
        )
        - np.maximum(boxes[:, axis, None], others[:, axis])
        for axis in (0, 1)
    ]
    return np.maximum(sides[0], 0) * np.maximum(sides[1], 0)


def _subset(subset):
    if isinstance(subset, Subset):
        return subset
    if isinstance(subset, str) and subset in SUBSETS:
        return SUBSETS[subset]
    raise ValueError(
        f"`subset` must be one of {', '.join(SUBSETS)} or a `Subset`. Received: "
        f"subset={subset!r}"
    )


def _read_truth(source, subset, category_id):
    """{image id: (boxes (G, 4), whether each of them is ignored (G,))}."""
    content = records.content_of(source)
    name = source if source is not content else "`ground_truth`"
    images, annotations = records.lists_of(content, name, "images", "annotations")
    _warn_of_category(name, content.get("categories"), category_id)
    truth = {image_id: ([], []) for image_id in records.images_of(source, images)}
    left_out = []
    low, high = subset.height_range
    least, most = subset.visibility_range
    for index, record in enumerate(annotations):
        place = f"annotations[{index}]"
        with records.naming(source, place, record):
            if record.get("category_id", category_id) != category_id:
                continue
            box = records.box_or_none(record)
            if box is None or records.is_empty(record, "image_id"):
                left_out.append(place)
                continue
            height = records.number(record, "height", box[3])
            visible = records.number(record, "vis_ratio", 1.0)
            counts = low <= height <= high and least <= visible <= most
            boxes, ignored = truth[records.identity(record, "image_id", truth)]
            boxes.append(box)
            ignored.append(bool(records.number(record, "ignore", 0)) or not counts)
    records.warn_of_left_out(name, "boxes that are null, empty or negative", left_out)
    return {
        image_id: (np.reshape(boxes, (-1, 4)).astype("float64"), np.array(ignored, bool))
        for image_id, (boxes, ignored) in truth.items()
    }


def _warn_of_category(name, categories, category_id):
    """Warns if the category is not people.

    The official evaluator does not check: in its own file category 1 is pedestrian.
    """
    named = {one.get("id"): one for one in categories or () if isinstance(one, dict)}
    if named and not coco_categories.is_person(named.get(category_id)):
        logging.warning(
            "%s: the miss rate is that of category %r, which is not named person or "
            "pedestrian there. For that of people, pass their id as `category_id`",
            name,
            category_id,
        )


def _read_detections(source, images, subset, category_id):
    """{image id: (scores (D,), boxes (D, 4))}, highest first, of detections that count.

    Detections far outside the subset's range of heights do not.
    """
    content = records.content_of(source)
    if not isinstance(content, list | tuple):
        raise ValueError(
            "`detections` must be a list of dictionaries, or the path of such a JSON "
            f"file. Received: {records.name_of(source)}"
        )
    found = {}
    for index, record in enumerate(content):
        with records.naming(source, f"detections[{index}]", record):
            scored = (records.number(record, "score"), *records.box(record))
            image_id = records.identity(record, "image_id", images)
            if record.get("category_id", category_id) == category_id:
                found.setdefault(image_id, []).append(scored)
    low, high = subset.height_range
    for image_id, scored in found.items():
        scored = np.array(scored, "float64")
        best = np.argsort(-scored[:, 0], kind="stable")[:_DETECTIONS_PER_IMAGE]
        scored = scored[best]
        heights = scored[:, 4]
        near = (heights >= low / _HEIGHT_MARGIN) & (heights < high * _HEIGHT_MARGIN)
        found[image_id] = scored[near, 0], scored[near, 1:]
    return found
