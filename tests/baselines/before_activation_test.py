"""Feature maps before their activation function."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

import tiny
from keras_hybrid.baselines import FeatureTransfer
from keras_hybrid.baselines.before_activation import before_activation
from keras_hybrid.hybrid.graph import flatten


def values_at(network, layer_name, images):
    """(values before, values after the activation of a layer, output of the network)."""
    graph = flatten(network)
    step = next(step for step in graph.steps if step.name == layer_name)
    changed, before = before_activation(graph, *step.outputs)
    values = {changed.input: images}
    changed.run(values, 0, None, training=False)
    return values[before], values[step.outputs[0]], values[changed.outputs[0]]


def test_activation_argument_of_a_layer():
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


def test_a_layer_that_changes_afterwards():
    """As by `enable_lora`."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    network = keras.Model(image, layers.Conv2D(2, 3)(x))
    graph = flatten(network)
    step = next(step for step in graph.steps if step.name == "conv")
    changed, before = before_activation(graph, *step.outputs)
    convolution = network.get_layer("conv")
    convolution.enable_lora(2)
    convolution.lora_kernel_b.assign(np.ones((2, 4)))
    images, _ = tiny.batch(2, size=8)
    values = {changed.input: images}
    changed.run(values, 0, None, training=False)
    expected = keras.ops.conv(images, convolution.kernel) + convolution.bias
    np.testing.assert_allclose(values[before], expected, atol=1e-5)


def test_activation_layer():
    network = tiny.student()
    images, _ = tiny.batch(2)
    before, after, _ = values_at(network, "out2", images)
    expected = keras.Model(network.input, network.get_layer("bn2").output)(images)
    np.testing.assert_allclose(before, expected, atol=1e-6)
    np.testing.assert_allclose(after, np.tanh(before), atol=1e-6)


def test_softmax_of_the_classifier():
    network = tiny.student()
    images, _ = tiny.batch(2)
    logits, probabilities, _ = values_at(network, "classifier", images)
    np.testing.assert_allclose(probabilities, keras.ops.softmax(logits), atol=1e-6)
    assert np.abs(keras.ops.sum(logits, axis=-1) - 1).max() > 1e-3


def test_a_layer_without_activation_function():
    network = tiny.student()
    before, after, _ = values_at(network, "conv1", tiny.batch(2)[0])
    np.testing.assert_array_equal(before, after)


class Doubled(layers.Layer):
    """A custom activation function."""

    def call(self, x):
        return 2 * ops.relu(x)


def hard_swish(z):
    return z * layers.ReLU(6.0)(z + 3.0) * (1 / 6)


ACTIVATIONS = {
    "ops.relu": ops.relu,
    "ops.maximum": lambda z: ops.maximum(z, 0.0),
    "ops.clip": lambda z: ops.clip(z, 0.0, 6.0),
    "activations.relu": lambda z: keras.activations.relu(z, max_value=6.0),
    "activations.gelu": keras.activations.gelu,
    "several ops": lambda z: z * ops.sigmoid(z),
    "several ops and layers": hard_swish,
    "ReLU": lambda z: layers.ReLU(6.0)(z),
    "Activation": lambda z: layers.Activation("mish")(z),
    "PReLU": lambda z: layers.PReLU(alpha_initializer="normal")(z),
    "Lambda": lambda z: layers.Lambda(lambda z: ops.relu(z))(z),
    "custom": lambda z: Doubled()(z),
    "followed by dropout": lambda z: layers.SpatialDropout2D(0.5)(ops.relu(z)),
    "followed by identity": lambda z: layers.Identity()(layers.PReLU()(z)),
    "followed by a cast": lambda z: layers.Activation("linear", dtype="float32")(
        ops.relu(z)
    ),
    "followed by noise": lambda z: layers.GaussianNoise(0.5)(ops.relu(z)),
    "followed by reshape": lambda z: layers.Reshape((8, 8, 4))(ops.relu(z)),
}


def convolved(end, **kwargs):
    """A network of images (8, 8, 3), a convolution and `end`; and the convolution."""
    image = keras.Input((8, 8, 3))
    settings = {"padding": "same", "bias_initializer": "normal", **kwargs}
    convolution = layers.Conv2D(4, 3, **settings)
    return keras.Model(image, end(convolution(image))), convolution


def linear_part(convolution, images):
    z = ops.conv(images, convolution.kernel, padding="same") + convolution.bias
    return ops.convert_to_numpy(z)


def before_and_output(network, images):
    graph = flatten(network)
    graph, before = before_activation(graph, *graph.outputs)
    values = {graph.input: images}
    graph.run(values, 0, None, training=False)
    return ops.convert_to_numpy(values[before]), values[graph.outputs[0]]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_form_of_activation_function(name):
    network, convolution = convolved(ACTIVATIONS[name])
    images, _ = tiny.batch(2, size=8)
    weights, expected = network.get_weights(), network(images)
    before, output = before_and_output(network, images)
    np.testing.assert_allclose(before, linear_part(convolution, images), atol=1e-5)
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(network(images), expected)
    for weight, value in zip(network.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize(
    "activation",
    ["relu", layers.LeakyReLU(), layers.PReLU(), functools.partial(ops.elu, alpha=0.5)],
)
def test_every_activation_argument_of_a_convolution(activation):
    network, convolution = convolved(lambda x: x, activation=activation)
    images, _ = tiny.batch(2, size=8)
    state, expected = dict(vars(convolution)), network(images)
    before, output = before_and_output(network, images)
    np.testing.assert_allclose(before, linear_part(convolution, images), atol=1e-5)
    np.testing.assert_array_equal(output, expected)
    assert vars(convolution) == state


@pytest.mark.parametrize(
    "layer",
    [
        layers.DepthwiseConv2D(3, activation="relu"),
        layers.SeparableConv2D(4, 3, activation="relu"),
        layers.Conv2DTranspose(4, 3, activation="relu"),
        layers.Dense(4, activation="relu"),
        layers.EinsumDense("bhwc,cd->bhwd", (None, None, 4), activation="relu"),
    ],
)
def test_activation_argument_of_other_layers(layer):
    image = keras.Input((8, 8, 3))
    network = keras.Model(image, layer(image))
    images, _ = tiny.batch(2, size=8)
    linear = type(layer).from_config({**layer.get_config(), "activation": None})
    linear.build((None, 8, 8, 3))
    linear.set_weights(layer.get_weights())
    before, output = before_and_output(network, images)
    np.testing.assert_allclose(before, linear(images), atol=1e-6)
    np.testing.assert_array_equal(output, network(images))


def test_activity_regularizer_applies_to_the_activations():
    network, convolution = convolved(
        lambda x: x, activation="relu", activity_regularizer=keras.regularizers.L2(1.0)
    )
    images, _ = tiny.batch(2, size=8)
    before, output = before_and_output(network, images)
    np.testing.assert_allclose(before, linear_part(convolution, images), atol=1e-5)
    # Keras divides by the batch size.
    expected = np.square(ops.convert_to_numpy(output)).sum() / 2
    assert [float(loss) for loss in convolution.losses] == pytest.approx([expected])


def test_concatenated_maps_are_taken_before_their_activations():
    image = keras.Input((8, 8, 3))
    first, second, third = (layers.Conv2D(4, 3, padding="same") for _ in "123")
    first.activation = keras.activations.relu
    parts = first(image), layers.ReLU()(second(image)), third(image)
    network = keras.Model(image, layers.Dropout(0.5)(layers.Concatenate()(parts)))
    images, _ = tiny.batch(2, size=8)
    before, output = before_and_output(network, images)
    expected = [linear_part(layer, images) for layer in (first, second, third)]
    np.testing.assert_allclose(before, np.concatenate(expected, axis=-1), atol=1e-5)
    np.testing.assert_array_equal(output, network(images))


@pytest.mark.parametrize("pool", [layers.MaxPooling2D(2), lambda x: ops.max_pool(x, 2)])
def test_max_pooling_is_applied_before_the_activation(pool):
    # As at the end of VGG.
    network, convolution = convolved(pool, activation="relu")
    images, _ = tiny.batch(2, size=8)
    before, output = before_and_output(network, images)
    expected = linear_part(convolution, images).reshape(2, 4, 2, 4, 2, 4).max((2, 4))
    np.testing.assert_allclose(before, expected, atol=1e-5)
    np.testing.assert_array_equal(output, network(images))


class Block(layers.Layer):
    """A custom layer with an attribute `activation`, as Keras's layers have."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.activations.relu
        self.convolution = layers.Conv2D(4, 3, padding="same")

    def build(self, input_shape):
        self.convolution.build(input_shape)

    def call(self, x):
        return self.activation(self.convolution(x)) + 0.1 * self.activation(x[..., :1])


def test_methods_that_need_pre_activations_reject_opaque_layers():
    x = image = keras.Input((32, 32, 3))
    for _ in range(3):
        x = Block()(layers.MaxPooling2D()(x))
    teacher = keras.Model(image, x)
    images, _ = tiny.batch(2)
    expected = ops.convert_to_numpy(teacher(images))
    for method in ("ab", "overhaul"):
        with pytest.raises(ValueError, match=r"'block' \(Block\), which ends a stage"):
            FeatureTransfer(teacher, tiny.student(), method)
    FeatureTransfer(teacher, tiny.student(), "fitnet")
    np.testing.assert_array_equal(teacher(images), expected)


class Halved(layers.Conv2D):
    def call(self, x):
        return super().call(x) / 2


HIDDEN = {
    "custom": lambda x: Block()(x),
    "subclass": lambda x: Halved(4, 3, activation="relu")(x),
    "wrapper": lambda x: layers.SpectralNormalization(
        layers.Conv2D(4, 3, activation="relu")
    )(x),
    "function": lambda x: layers.Lambda(lambda x: ops.relu(ops.max_pool(x, 2)))(x),
    "followed by dropout": lambda x: layers.Dropout(0.5)(Block()(x)),
    "concatenated": lambda x: layers.Concatenate()([Block()(x), Block()(x)]),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_an_activation_hidden_in_an_opaque_layer_is_rejected(name):
    network, _ = convolved(HIDDEN[name])
    images, _ = tiny.batch(2, size=8)
    expected = ops.convert_to_numpy(network(images))
    graph = flatten(network)
    with pytest.raises(ValueError, match="must come from separate layers"):
        before_activation(graph, *graph.outputs)
    np.testing.assert_array_equal(network(images), expected)


LAST = {
    "BatchNormalization": lambda x: layers.BatchNormalization()(layers.ReLU()(x)),
    "Add": lambda x: layers.Add()([layers.ReLU()(layers.Conv2D(4, 1)(x)), x]),
    "AveragePooling2D": lambda x: layers.AveragePooling2D(2)(layers.ReLU()(x)),
    "Rescaling": lambda x: layers.Rescaling(0.5)(layers.BatchNormalization()(x)),
}


@pytest.mark.parametrize("name", LAST)
def test_maps_that_do_not_end_in_an_activation_are_unchanged(name):
    network, _ = convolved(LAST[name])
    graph = flatten(network)
    same, symbol = before_activation(graph, *graph.outputs)
    assert same is graph
    assert (symbol,) == graph.outputs
