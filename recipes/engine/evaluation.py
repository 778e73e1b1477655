"""Predictions for the test images, and what they are worth."""

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_hybrid.data.detection import DetectionSource
from keras_hybrid.metrics import (
    MeanIoU,
    MissRateCurve,
    Subset,
    log_average_miss_rate,
    miss_rate_curve,
)
from keras_hybrid.models.detection.faster_rcnn import FasterRCNN, with_detections
from keras_hybrid.models.segmentation.deeplab_v2 import at_size, with_label_map


def top1_of_file(
    path: str | os.PathLike[str], batches: tf.data.Dataset, count: int
) -> float:
    """Returns the top-1 accuracy in percent of a TFLite file.

    Args:
        path: Path of the file.
        batches: Batches of one image (1, H, W, 3) and its label (1,).
        count: Number of batches, for the progress bar.
    """
    runner = Interpreter(model_path=os.fspath(path)).get_signature_runner()
    progress = keras.utils.Progbar(count, unit_name="image")
    right = total = 0
    for image, label in batches:
        right += int(np.argmax(runner(image=image)["output_0"]) == int(label[0]))
        total += 1
        progress.update(total)
    return round(100 * right / total, 3)


def label_maps_of(student: keras.Model) -> Callable[[tf.Tensor], np.ndarray]:
    """Returns a function from images (B, H, W, 3) to label maps (B, H, W).

    It runs a graph for each size, which needs a quarter of the memory of eager layers:
    1.7 instead of 7.5 GiB for MobileNet and 2048x1024 pixels.
    """
    network = functools.cache(lambda *size: with_label_map(at_size(student, *size)))
    return lambda images: network(*images.shape[1:3]).predict_on_batch(images)


def mean_iou(
    student: keras.Model,
    batches: tf.data.Dataset,
    count: int,
    class_names: tuple[str, ...],
) -> dict[str, Any]:
    """Returns mIoU and IoU of each class in percent.

    The IoU of a class that neither occurs nor is predicted is None.

    Args:
        student: A segmenter, from images of any size to logits.
        batches: Batches of images (B, H, W, 3) and label maps (B, H, W).
        count: Number of batches, for the progress bar.
        class_names: Names of the classes.
    """
    metric = MeanIoU(len(class_names))
    progress = keras.utils.Progbar(count, unit_name="image")
    predict = label_maps_of(student)
    for done, (images, labels) in enumerate(batches, start=1):
        metric.update_state(labels, predict(images))
        progress.update(done)
    iou = dict(zip(class_names, 100 * metric.result_per_class()))
    return {
        "miou": round(100 * float(metric.result()), 3),
        "iou": {name: None if np.isnan(v) else round(v, 3) for name, v in iou.items()},
    }


def detections_of(
    student: FasterRCNN, batches: tf.data.Dataset, count: int
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
    source: DetectionSource,
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
