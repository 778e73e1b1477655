"""Log-average miss rate of pedestrian detections, as CityPersons computes it."""

import math
import typing

import numpy as np
from absl import logging

from keras_hybrid.metrics import coco_categories, records

_IOU = 0.5
_DETECTIONS_PER_IMAGE = 1000
# Detections are counted in this factor around the heights of the subset.
_HEIGHT_MARGIN = 1.25
# False positives per image; these digits are those of the official evaluator.
_FPPI = (0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000)
_UNLIMITED = 1e10


class Subset(typing.NamedTuple):
    """Which pedestrians count; both ends of a range belong to it.

    Attributes:
        height_range: Height of the full box in pixels.
        visibility_range: Visible part of the full box's area, from 0 to 1.
    """

    height_range: tuple[float, float]
    visibility_range: tuple[float, float] = (0.0, _UNLIMITED)


# The official evaluator's; others use the name "heavy" for other ranges.
SUBSETS = {
    "reasonable": Subset((50, _UNLIMITED), (0.65, _UNLIMITED)),
    "reasonable_small": Subset((50, 75), (0.65, _UNLIMITED)),
    "heavy": Subset((50, _UNLIMITED), (0.2, 0.65)),
    "all": Subset((20, _UNLIMITED), (0.2, _UNLIMITED)),
}


class MissRateCurve(typing.NamedTuple):
    """What is missed at which rate of false alarms, from the highest score down.

    Attributes:
        scores: Of the detections that count, falling (N,).
        fppi: False positives per image with a threshold at each score (N,).
        miss_rate: Share of the pedestrians that are missed then, from 0 to 1 (N,).
        positives: How many pedestrians there are to find.
    """

    scores: np.ndarray
    fppi: np.ndarray
    miss_rate: np.ndarray
    positives: int


def log_average_miss_rate(ground_truth, detections, subset="reasonable", category_id=1):
    """MR^-2 in percent, the mean miss rate at nine rates of false alarms; 0 is best.

    The mean is that of logarithms; the rates are spread evenly, in logarithms, from
    10^-2 to 1 false positive per image (Dollar et al. 2012). In everything, its quirks
    included, this follows the evaluator of CityPersons (Zhang et al. 2017), so that the
    figures agree with published ones: with fewer than 100 images the first false
    positive may lie above a rate, and the recall at that rate is then the final one.

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
        ground_truth: A dictionary in the layout of COCO, or the path of its JSON file.
            `"images"` have an `"id"`; `"annotations"` have an `"image_id"`, a `"bbox"`
            [x, y, width, height] in pixels, and may have a `"category_id"`, `"ignore"`
            (1: neither to be found nor a false alarm), `"height"` of the full box (by
            default that of `"bbox"`) and `"vis_ratio"` (by default 1). `"iscrowd"` is not
            looked at. Null, empty and negative boxes are left out, with a warning.
        detections: A list of dictionaries with `"image_id"`, `"bbox"`, `"score"` and
            perhaps `"category_id"`; or the path of its JSON file.
        subset: "reasonable", "reasonable_small", "heavy", "all" or a `Subset`.
        category_id: Others do not count. 1 is the official evaluator's; where
            `"categories"` of the ground truth call it something other than a person, a
            warning says so.

    Returns:
        A float from 0 to 100. 100 if nothing was detected; NaN if there is no pedestrian
        in the subset, where the official evaluator prints -100.

    Raises:
        ValueError: A record is malformed; the message has its index.
        OSError: A file cannot be read.
    """
    curve = miss_rate_curve(ground_truth, detections, subset, category_id)
    if not curve.positives:
        return math.nan
    if not len(curve.fppi):
        return 100.0
    # An index of -1 is the official quirk of few images.
    at = np.searchsorted(curve.fppi, _FPPI, side="right") - 1
    with np.errstate(divide="ignore"):
        return float(100 * np.exp(np.mean(np.log(curve.miss_rate[at]))))


def miss_rate_curve(ground_truth, detections, subset="reasonable", category_id=1):
    """The `MissRateCurve` that `log_average_miss_rate` averages.

    Args:
        ground_truth: As there.
        detections: As there.
        subset: As there.
        category_id: As there.

    Returns:
        A `MissRateCurve`.

    Raises:
        ValueError, OSError: As there.
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
    scores, hits = np.concatenate(scores), np.concatenate(hits)
    order = np.argsort(-scores, kind="stable")
    hits = hits[order]
    with np.errstate(invalid="ignore"):
        miss_rate = 1 - np.cumsum(hits) / np.float64(positives)
    return MissRateCurve(
        scores[order], np.cumsum(~hits) / max(len(truth), 1), miss_rate, positives
    )


def _match(boxes, ignored, detected):
    """Whether each detection of an image counts, and whether it is a hit.

    Args:
        boxes: Ground truth (G, 4), [x, y, width, height].
        ignored: Which of them are neither to be found nor false alarms (G,).
        detected: Boxes (D, 4), highest score first.
    """
    intersections = _intersections(detected, boxes)
    areas = detected[:, 2:3] * detected[:, 3:4]
    unions = areas + boxes[:, 2] * boxes[:, 3] - intersections
    # Boxes without an area share none with others.
    shared = intersections > 0
    iou = np.divide(intersections, unions, where=shared, out=0 * unions)[:, ~ignored]
    covered = np.divide(intersections, areas, where=shared, out=0 * unions)[:, ignored]
    counted = ~(covered >= _IOU).any(axis=1)
    hit = np.zeros(len(detected), bool)
    for index in np.flatnonzero((iou >= _IOU).any(axis=1)):
        # Of boxes that fit equally well the last one in the file is taken.
        best = iou.shape[1] - 1 - np.argmax(iou[index, ::-1])
        if iou[index, best] >= _IOU:
            hit[index] = counted[index] = True
            iou[:, best] = 0
    return counted, hit


def _intersections(boxes, others):
    """Areas that boxes (N, 4) and others (M, 4), [x, y, width, height], share (N, M)."""
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
    """{image id: (boxes (G, 4), which of them are ignored (G,))}."""
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
    """The official evaluator never looks: in its own file category 1 is pedestrian."""
    named = {one.get("id"): one for one in categories or () if isinstance(one, dict)}
    if named and not coco_categories.is_person(named.get(category_id)):
        logging.warning(
            "%s: the miss rate is that of category %r, which is not named person or "
            "pedestrian there. `category_id` must be that of people, if theirs is meant",
            name,
            category_id,
        )


def _read_detections(source, images, subset, category_id):
    """{image id: (scores (D,), boxes (D, 4))}, highest first, of those that count."""
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
