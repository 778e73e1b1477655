"""Classification: images with one class each."""

from keras_hybrid.data.classification import augment
from keras_hybrid.data.classification.dataset import ClassificationDataset
from keras_hybrid.data.classification.layouts import open_dataset
from keras_hybrid.data.sources import ArraySource
