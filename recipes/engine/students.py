"""The students that the flags of the recipes describe."""

import keras
import numpy as np

from keras_hybrid.data.detection import DetectionSource
from keras_hybrid.hybrid import graph
from keras_hybrid.models import torchvision
from keras_hybrid.models.detection.anchors import CELLS
from keras_hybrid.models.detection.faster_rcnn import FasterRCNN
from keras_hybrid.models.segmentation.deeplab_v2 import deeplab_v2
from keras_hybrid.recipes.engine import networks, settings

_FEATURE_STRIDES = 8, 16, 32
_ANCHORS = 11


def classifier(config: settings.Config, size: int, classes: int) -> keras.Model:
    """Returns the student of --student, a classifier that ends in a softmax.

    Args:
        config: Config of the recipe.
        size: Height and width of the images in pixels.
        classes: Number of classes.
    """
    if not config.student.endswith(".keras"):
        network = _classifier_of_logits(config, size, classes)
        # float16 is too coarse for a softmax, and the top-5 metric does not take it.
        softmax = keras.layers.Softmax(dtype="float32", name="probabilities")
        return keras.Model(network.input, softmax(network.output), name=network.name)
    student = networks.from_file("student", config.student, (size, size))
    outputs = networks.outputs_for_noise(student, size, size)
    if getattr(outputs, "shape", None) != (1, classes):
        settings.refuse("student", f"a classifier of {classes} classes", config.student)
    if not networks.are_probabilities(outputs):
        settings.refuse("student", "a classifier that ends in a softmax", config.student)
    return student


def _classifier_of_logits(config, size, classes):
    if not networks.is_state_dict(config.student):
        return networks.of_student(
            config,
            "student",
            input_shape=(size, size, 3),
            classes=classes,
            classifier_activation=None,
        )
    features = torchvision.load(config.student)
    image = keras.Input((size, size, 3), name="image")
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(features(image))
    x = keras.layers.Dense(classes, name="predictions")(x)
    return keras.Model(image, x, name=features.name)


def segmenter(config: settings.CropConfig, classes: int) -> keras.Model:
    """Returns DeepLab v2 on the network of --student, or the segmenter in that file.

    It takes images whose sides are multiples of the output stride, and ends in logits.
    """
    if not config.student.endswith(".keras"):
        backbone = networks.backbone(config, "student")
        return deeplab_v2(backbone, classes, output_stride=config.output_stride)
    student = networks.from_file("student", config.student, networks.ANY_SIZE)
    size = config.multiple, config.multiple
    outputs = networks.outputs_for_noise(student, *size)
    if getattr(outputs, "shape", None) != (1, *size, classes):
        settings.refuse("student", f"a segmenter of {classes} classes", config.student)
    if networks.are_probabilities(outputs):
        rule = "a segmenter that ends in logits, not in a softmax"
        settings.refuse("student", rule, config.student)
    return student


def detector(config: settings.CropConfig, source: DetectionSource) -> FasterRCNN:
    """Returns Faster R-CNN on --student_backbone, with anchors as high as the people."""
    return FasterRCNN(
        detector_backbone(config),
        feature_strides=_FEATURE_STRIDES,
        anchor_heights=anchor_heights(config, source),
        channels=config.channels,
        units=config.units,
    )


def detector_backbone(config: settings.CropConfig) -> keras.Model:
    """Returns the network of --student_backbone."""
    value, flag = config.student_backbone, "student_backbone"
    if not value.endswith(".keras"):
        return networks.backbone(config, flag)
    backbone = networks.from_file(flag, value, networks.ANY_SIZE)
    if graph.functional(backbone) is None:
        rule = "a Functional network without a head, not a detector"
        settings.refuse(flag, rule, value)
    return backbone


def anchor_heights(
    config: settings.CropConfig, source: DetectionSource
) -> tuple[float, ...]:
    """Returns anchor heights in pixels of the enlarged images.

    Evenly spaced in log space, they range from the 1st to the 99th percentile of the
    heights of people to train on, and further where a feature map would otherwise have no
    anchor.
    """
    heights = np.concatenate(
        [of_image.boxes[~of_image.ignored, 3] for of_image in source.people]
    )
    heights = heights[heights >= config.min_height]
    if not len(heights):
        settings.refuse(
            "min_height",
            "such that there are people of at least that height",
            config.min_height,
        )
    low, high = config.upscale * np.quantile(heights, [0.01, 0.99])
    low = min(low, CELLS * _FEATURE_STRIDES[1] - 1)
    high = max(high, CELLS * _FEATURE_STRIDES[-1])
    return tuple(np.geomspace(low, high, _ANCHORS).round(1).tolist())
