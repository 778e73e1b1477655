"""Evaluation metrics of the recipes, as the benchmarks of their tasks define them."""

from keras_hybrid.metrics.mean_iou import MeanIoU
from keras_hybrid.metrics.miss_rate import (
    MissRateCurve,
    Subset,
    log_average_miss_rate,
    miss_rate_curve,
)
