"""What the recipes report, as the benchmarks of their tasks define it."""

from keras_hybrid.metrics.mean_iou import MeanIoU
