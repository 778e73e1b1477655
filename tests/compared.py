"""What a baseline compares of two tiny networks, from Keras sub-models."""

import keras
import tensorflow as tf

import tiny
from keras_hybrid.baselines.before_activation import before_activation
from keras_hybrid.hybrid.graph import flatten

STAGES = ["out1", "out2", "out3"]
BEFORE = {"teacher": ["add1", "add2", "add3"], "student": ["bn1", "bn2", "bn3"]}


def teacher_of(method):
    return tiny.teacher() if method != "kd" else tiny.student(channels=(6, 8, 10))


def compared(model, takes, role, images, training):
    """Tensors of one network that the method compares, from Keras sub-models."""
    network = getattr(model, role)
    if takes == "logits":
        graph, symbol = before_activation(flatten(network), *flatten(network).outputs)
        values = {graph.input: tf.constant(images)}
        graph.run(values, 0, None, training)
        return [values[symbol]]
    names = STAGES if takes == "stages" else BEFORE[role]
    outputs = [network.get_layer(name).output for name in names]
    return keras.Model(network.input, outputs)(images, training=training)
