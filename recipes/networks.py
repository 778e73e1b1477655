"""Networks as the recipes start from them."""

import keras

from keras_hybrid import applications
from keras_hybrid.export.student import load


def from_scratch(name, **kwargs):
    """`applications.load` at random, with moving averages that follow in tens of steps.

    With Keras's own momentum of 0.99 the variances keep some of the 1 that they start
    from for hundreds of steps: after 455 on CamVid a MobileNet's were up to five times
    too large, and a student with 27 % mIoU on its training batches had 3 % with them. 0.9
    is PyTorch's default, there called 0.1.
    """
    network = applications.load(name, weights=None, **kwargs)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    return network


def backbone(config, name):
    """The feature maps of a student: what is drawn is learned from scratch."""
    shape = (None, None, 3)
    if config.student_weights == "random" or not config.data_dir:
        return from_scratch(name, input_shape=shape)
    return applications.load(name, weights=config.student_weights, input_shape=shape)


def teacher(config, **kwargs):
    """The network of --teacher, from raw RGB on.

    Args:
        config: The recipe's.
        **kwargs: To `applications.load`, for one of Keras Applications.
    """
    if config.teacher.endswith(".keras"):
        network = load(config.teacher, "--teacher")
        return applications.with_preprocessing(network, config.teacher_preprocessing)
    return applications.load(config.teacher, **kwargs)
