"""Semantic segmentation: images with a class for each pixel."""

from keras_hybrid.data.segmentation import augment
from keras_hybrid.data.segmentation.dataset import (
    IGNORED,
    SegmentationDataset,
    source_of_arrays,
)
from keras_hybrid.data.segmentation.layouts import open_dataset
