"""Export of the student to files that run without Keras, each checked against it."""

from keras_hybrid.export.report import ExportReport
from keras_hybrid.export.saved_model import to_saved_model
from keras_hybrid.export.tflite import to_tflite

__all__ = ["ExportReport", "to_saved_model", "to_tflite"]
