"""Mean intersection over union, as Cityscapes computes it."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_hybrid.training.types import Tensor


@keras.saving.register_keras_serializable("keras_hybrid")
class MeanIoU(keras.metrics.Metric):
    """Intersection over union (IoU) of each class over a data set, and their mean.

    One confusion matrix counts the pixels of all images; the IoU of a class is TP / (TP +
    FP + FN). Pixels whose ground truth is not a class are left out. A class that neither
    occurs nor is predicted has no IoU and is left out of the mean; a class that is
    predicted but does not occur counts as 0. This is how cityscapesscripts evaluates.
    `keras.metrics.MeanIoU` counts in float32, which is exact for up to 17 million pixels,
    or 8 images of Cityscapes.

    Example:

    >>> metric = MeanIoU(num_classes=2)
    >>> metric.update_state([[0, 0], [1, 255]], [[0, 1], [1, 1]])
    >>> metric.result_per_class()  # 1 of 2 pixels, 1 of 2 pixels
    array([0.5, 0.5])

    Args:
        num_classes: Number of classes; their labels are 0 to `num_classes - 1`.
        ignore_class: Label of pixels without ground truth. Other labels that are not a
            class are left out too; as a prediction they are wrong.
        name: Name of the metric.
        dtype: Dtype of the result.
    """

    def __init__(
        self,
        num_classes: int = 19,
        ignore_class: int = 255,
        name: str = "mean_iou",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(
                "`num_classes` must be an integer of at least 1. Received: "
                f"num_classes={num_classes}"
            )
        self.num_classes = num_classes
        self.ignore_class = ignore_class
        # JAX has no float64 unless it is enabled.
        counts = "float32" if keras.backend.backend() == "jax" else "float64"
        # Ground truth by prediction; the last column counts predictions of no class.
        self.confusion = self.add_variable(
            (num_classes, num_classes + 1), "zeros", dtype=counts, name="confusion"
        )

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Adds the pixels of a batch to the confusion matrix.

        Args:
            y_true: Label maps (B, H, W) or (B, H, W, 1).
            y_pred: Label maps of either shape, or scores (B, H, W, num_classes).
            sample_weight: Weights of the pixels, or of the images (B,).
        """
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        if y_pred.shape[-1] == self.num_classes and _is_scores(y_true, y_pred):
            y_pred = ops.argmax(y_pred, axis=-1)
        shape = ops.shape(y_pred)
        y_true = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        y_pred = ops.reshape(ops.cast(y_pred, "int32"), (-1,))
        counted = self._is_class(y_true) & (y_true != self.ignore_class)
        weights = ops.cast(counted, self.confusion.dtype)
        if sample_weight is not None:
            weights *= _per_pixel(sample_weight, shape, weights.dtype)
        columns = self.num_classes + 1
        y_true = ops.where(counted, y_true, 0)
        y_pred = ops.where(self._is_class(y_pred), y_pred, self.num_classes)
        counts = ops.segment_sum(
            weights, y_true * columns + y_pred, num_segments=self.num_classes * columns
        )
        self.confusion.assign_add(ops.reshape(counts, (self.num_classes, columns)))

    def _is_class(self, labels):
        return (labels >= 0) & (labels < self.num_classes)

    def result(self) -> Tensor:
        """Returns the mean over the classes that occur or are predicted; NaN if none."""
        iou, occurs = self._iou()
        return ops.cast(ops.sum(iou) / ops.sum(ops.cast(occurs, iou.dtype)), self.dtype)

    def result_per_class(self) -> np.ndarray:
        """Returns the IoU of each class (num_classes,), NaN if left out of the mean."""
        iou, occurs = self._iou()
        return ops.convert_to_numpy(ops.where(occurs, iou, float("nan")))

    def _iou(self):
        """IoU of each class, 0 if it has none; and whether it occurs or is predicted."""
        confusion = ops.convert_to_tensor(self.confusion)
        predicted = ops.sum(confusion, axis=0)[: self.num_classes]
        intersection = ops.diagonal(confusion)
        union = ops.sum(confusion, axis=1) + predicted - intersection
        return ops.divide_no_nan(intersection, union), union > 0

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "ignore_class": self.ignore_class,
        }


def _is_scores(y_true, y_pred):
    """Whether the last axis of `y_pred` holds scores."""
    is_map = y_true.shape[-1] == 1 and len(y_true.shape) == len(y_pred.shape)
    return is_map or len(y_pred.shape) == len(y_true.shape) + 1


def _per_pixel(weights, shape, dtype):
    """Weights of pixels or images as one weight per pixel (N,)."""
    weights = ops.cast(weights, dtype)
    if len(weights.shape) == 1:
        weights = ops.reshape(weights, (-1, *[1] * (len(shape) - 1)))
    return ops.reshape(ops.broadcast_to(weights, shape), (-1,))
