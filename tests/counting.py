"""Networks that count how often one of their layers is computed."""

import keras
import tensorflow as tf
from keras import layers


class Counting(layers.Layer):
    """Counts how often it is computed."""

    count = 0

    def call(self, x):
        def add(x):
            self.count += 1
            return x

        @tf.custom_gradient
        def counted(x):
            return tf.ensure_shape(
                tf.numpy_function(add, [x], x.dtype), x.shape
            ), tf.identity

        return counted(x)


def with_counting(network, at):
    """The network with a counting layer behind the layer `at`."""
    counting = Counting()

    def behind(layer, *args, **kwargs):
        x = layer(*args, **kwargs)
        return counting(x) if layer.name == at else x

    clone = keras.models.clone_model(network, call_function=behind)
    return clone, counting
