"""Pedestrian detection: images with boxes around people."""

from keras_hybrid.data.detection import augment
from keras_hybrid.data.detection.dataset import DetectionDataset, DetectionSource, People
from keras_hybrid.data.detection.layouts import open_dataset
