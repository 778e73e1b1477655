"""What goes into the activation function that makes a map."""

import keras
import numpy as np
import pytest
from keras import layers

import tiny
from keras_hybrid.baselines.before_activation import before_activation
from keras_hybrid.graph import flatten


def values_at(network, layer_name, images):
    """(before, after) the activation at a layer, and the network's output."""
    graph = flatten(network)
    step = next(step for step in graph.steps if step.name == layer_name)
    changed, before = before_activation(graph, *step.outputs)
    values = {changed.input: images}
    changed.run(values, 0, None, training=False)
    return values[before], values[step.outputs[0]], values[changed.outputs[0]]


def test_an_activation_function_inside_a_layer():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    network = keras.Model(image, layers.Conv2D(2, 3)(x))
    images, _ = tiny.batch(2, size=8)
    before, after, output = values_at(network, "conv", images)
    convolution = network.get_layer("conv")
    expected = keras.ops.conv(images, convolution.kernel) + convolution.bias
    np.testing.assert_allclose(before, expected, atol=1e-5)
    np.testing.assert_array_equal(after, np.maximum(before, 0))
    np.testing.assert_allclose(output, network(images), atol=1e-6)
    assert convolution.activation is keras.activations.relu


def test_a_layer_that_is_an_activation_function():
    network = tiny.student()
    images, _ = tiny.batch(2)
    before, after, _ = values_at(network, "out2", images)
    expected = keras.Model(network.input, network.get_layer("bn2").output)(images)
    np.testing.assert_allclose(before, expected, atol=1e-6)
    np.testing.assert_allclose(after, np.tanh(before), atol=1e-6)


def test_logits():
    network = tiny.student()
    images, _ = tiny.batch(2)
    logits, probabilities, _ = values_at(network, "classifier", images)
    np.testing.assert_allclose(probabilities, keras.ops.softmax(logits), atol=1e-6)
    assert np.abs(keras.ops.sum(logits, axis=-1) - 1).max() > 1e-3


def test_no_activation_function():
    network = tiny.student()
    before, after, _ = values_at(network, "conv1", tiny.batch(2)[0])
    np.testing.assert_array_equal(before, after)


def test_a_layer_that_fails_keeps_its_activation_function():
    network = tiny.student()
    graph = flatten(network)
    graph, _ = before_activation(graph, *graph.outputs)
    wrong = {symbol: np.zeros((2, 3)) for step in graph.steps for symbol in step.outputs}
    with pytest.raises(ValueError, match="classifier"):
        graph.steps[-1].run(wrong)
    activation = network.get_layer("classifier").activation
    assert activation is keras.activations.softmax
