"""Evaluation of a detector on whole images, on any backend of Keras."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from keras_hybrid.metrics import (
    MissRateCurve,
    Subset,
    log_average_miss_rate,
    miss_rate_curve,
)
from keras_hybrid.models.detection.faster_rcnn import FasterRCNN, with_detections
from keras_hybrid.training.types import Tensor


class Source(Protocol):
    """Test images with ground truth, as `data.detection.DetectionSource` has them."""

    @property
    def category_id(self) -> int | str: ...

    def ground_truth(self) -> Mapping[str, Any]: ...

    def with_given_ids(
        self, detections: Iterable[Mapping[str, Any]]
    ) -> list[dict[str, Any]]: ...


def detections_of(
    student: FasterRCNN,
    batches: Iterable[tuple[Tensor, Mapping[str, Any]]],
    count: int,
) -> list[dict[str, Any]]:
    """Returns COCO-style detections, in pixels of the original images.

    Args:
        student: The detector.
        batches: Batches of one image each, with `"index"` and `"scale"`, see
            `data.detection.DetectionSource`. The id of an image is its index.
        count: Number of batches, for the progress bar.
    """
    network = functools.lru_cache(maxsize=16)(
        lambda *size: with_detections(student, *size)
    )
    progress = keras.utils.Progbar(count, unit_name="image")
    detections = []
    for done, (images, truth) in enumerate(batches, start=1):
        found = network(*images.shape[1:3]).predict_on_batch(images)
        boxes = found["boxes"][0] / np.tile(truth["scale"][0], 2)
        for box, score in zip(boxes, found["scores"][0]):
            if score > 0:
                x, y, right, bottom = map(float, box)
                detections.append(
                    {
                        "image_id": int(truth["index"][0]),
                        "category_id": 1,
                        "bbox": [x, y, right - x, bottom - y],
                        "score": float(score),
                    }
                )
        progress.update(done)
    return detections


def miss_rates(
    source: Source,
    detections: Sequence[Mapping[str, Any]],
    subsets: Mapping[str, str | Subset],
) -> tuple[dict[str, float | None], dict[str, MissRateCurve]]:
    """Returns MR^-2 in percent and the miss-rate curve on each subset.

    MR^-2 is None where a subset has no people.

    Args:
        source: Source of the test images.
        detections: What `detections_of` returned for them.
        subsets: Subsets of `metrics.log_average_miss_rate`, by name.
    """
    given, truth = source.with_given_ids(detections), source.ground_truth()
    rates, curves = {}, {}
    for name, subset in subsets.items():
        rate = log_average_miss_rate(truth, given, subset, source.category_id)
        rates[name] = None if math.isnan(rate) else round(rate, 2)
        curves[name] = miss_rate_curve(truth, given, subset, source.category_id)
    return rates, curves
