"""Fused kernels and folded convolutions equal the Keras layers up to rounding."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tiny
from keras_hybrid import HybridTransfer
from keras_hybrid.hybrid import batch_norm
from keras_hybrid.hybrid.graph import flatten


def normalized(x, layer):
    """(y, gradients of x, gamma and beta, moving averages) for a fixed gradient of y."""
    x = tf.constant(x)
    weights = [weight.value for weight in layer.trainable_weights]
    graph = flatten(keras.Sequential([keras.Input(x.shape[1:]), layer]))
    with tf.GradientTape() as tape:
        tape.watch(x)
        values = {graph.input: x}
        graph.run(values, 0, None, training=True)
        y = values[graph.outputs[0]]
    dy = tf.reshape(tf.range(tf.size(y), dtype=y.dtype) % 7, tf.shape(y))
    return [y, *tape.gradient(y, [x, *weights], dy), *layer.non_trainable_weights]


def with_and_without_kernels(monkeypatch, compute):
    """Results of `compute` with the fused kernels and with Keras's own layers."""
    fast = compute()
    monkeypatch.setattr(batch_norm, "_is_slow", lambda: False)
    return fast, compute()


@pytest.mark.parametrize(
    "settings", [{}, {"scale": False}, {"center": False, "epsilon": 0.1, "momentum": 0.5}]
)
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 1, 1, 4)])
def test_fused_kernel_equals_the_layer(monkeypatch, shape, settings):
    x = np.random.default_rng(0).normal(3, 2, shape).astype("float32")

    def compute():
        keras.utils.set_random_seed(0)
        names = "gamma", "beta", "moving_mean"
        initial = {f"{name}_initializer": "random_uniform" for name in names}
        layer = layers.BatchNormalization(**initial, **settings)
        return normalized(x, layer)

    for received, expected in zip(
        *with_and_without_kernels(monkeypatch, compute), strict=True
    ):
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-4)


def test_training_steps_equal_those_with_keras_layers(monkeypatch):
    images, labels = tiny.batch()

    def compute():
        keras.utils.set_random_seed(0)
        model = HybridTransfer(tiny.teacher(), tiny.student())
        model.compile("sgd", loss="sparse_categorical_crossentropy")
        logs = [model.train_on_batch(images, labels) for _ in range(3)]
        return [*logs, *model.get_weights()]

    for received, expected in zip(
        *with_and_without_kernels(monkeypatch, compute), strict=True
    ):
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)


class Doubled(layers.BatchNormalization):
    def call(self, x, **kwargs):
        return 2 * super().call(x, **kwargs)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (layers.BatchNormalization(renorm=True), tf.zeros((2, 3, 3, 4))),
        (layers.BatchNormalization(synchronized=True), tf.zeros((2, 3, 3, 4))),
        (layers.BatchNormalization(axis=1), tf.zeros((2, 3, 3, 4))),
        (layers.BatchNormalization(), tf.zeros((2, 4))),
        (layers.BatchNormalization(dtype="float64"), tf.zeros((2, 3, 3, 4), "float64")),
        (layers.BatchNormalization(activity_regularizer="l2"), tf.zeros((2, 3, 3, 4))),
        (layers.LayerNormalization(), tf.zeros((2, 3, 3, 4))),
        (Doubled(), tf.zeros((2, 3, 3, 4))),
    ],
)
def test_other_layers_are_not_fused(layer, x):
    assert not batch_norm.runs_fused(layer, (x,), {"training": True})


def test_a_call_with_a_mask_is_not_fused():
    layer, x, training = layers.BatchNormalization(), tf.zeros((2, 3, 3, 4)), True
    assert batch_norm.runs_fused(layer, (x,), {"training": training})
    mask = tf.ones((2, 3, 3))
    assert not batch_norm.runs_fused(layer, (x,), {"training": training, "mask": mask})


@pytest.mark.parametrize("policy", ["mixed_float16", "float16"])
def test_fused_kernel_in_half_precision(policy):
    layer = layers.BatchNormalization(dtype=policy)
    x = np.random.default_rng(0).normal(3, 2, (4, 5, 5, 3)).astype("float16")
    layer.build(x.shape)
    y = batch_norm.fused(layer, tf.constant(x))
    assert y.dtype == "float16"
    expected = (x - x.mean((0, 1, 2), "float32")) / np.sqrt(x.var((0, 1, 2), "float32"))
    np.testing.assert_allclose(y, expected, atol=5e-3)
    mean = 0.01 * x.mean((0, 1, 2), "float32")
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-3)


def test_inference_and_frozen_layers_are_not_fused():
    x = tf.zeros((2, 3, 3, 4))
    layer, frozen = (
        layers.BatchNormalization(),
        layers.BatchNormalization(trainable=False),
    )
    assert not batch_norm.runs_fused(layer, (x,), {"training": False})
    assert not batch_norm.runs_fused(frozen, (x,), {"training": True})


def teacher(**settings):
    """Convolutions before and after batch normalization; one output is used twice."""
    image = keras.Input((9, 7, 3))
    initial = {
        f"{name}_initializer": keras.initializers.RandomUniform(0.5, 2, seed=i)
        for i, name in enumerate(("gamma", "beta", "moving_mean", "moving_variance"))
    }

    def norm(name):
        return layers.BatchNormalization(**initial, **settings, name=name)

    bias = {"bias_initializer": "random_normal"}
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="first", **bias)(image)
    x = layers.ReLU()(norm("first_norm")(x))
    y = layers.Conv2D(4, 1, use_bias=False, dilation_rate=2, name="twice")(x)
    z = layers.Conv2D(4, 1, activation="relu", name="with_relu")(norm("twice_norm")(y))
    return keras.Model(image, layers.Add()([y, norm("relu_norm")(z)]))


@pytest.mark.parametrize(
    ("settings", "policy", "bound"),
    [
        ({}, "float32", 1e-5),
        ({"scale": False, "center": False}, "float32", 1e-5),
        ({}, "mixed_bfloat16", 0.1),
    ],
)
def test_folded_convolutions_equal_the_model(settings, policy, bound):
    keras.config.set_dtype_policy(policy)
    model = teacher(**settings)
    model.trainable = False
    graph = flatten(model)
    steps = batch_norm.folded(graph.steps, graph.outputs)
    names = [getattr(step, "name", "folded") for step in steps]
    assert names[0] == "folded"
    assert names[1:] == [step.name for step in graph.steps[2:]]
    x = tf.random.normal((2, 9, 7, 3), seed=1)
    values = {graph.input: x}
    graph.run(values, 0, None, training=False, wanted=graph.outputs)
    expected = tf.cast(model(x, training=False), "float32")
    found = tf.cast(values[graph.outputs[0]], "float32")
    np.testing.assert_allclose(found, expected, rtol=bound, atol=bound)


def test_a_convolution_whose_output_is_needed_is_not_folded():
    graph = flatten(teacher())
    (before,) = graph.steps[0].outputs
    assert batch_norm.folded(graph.steps, {before, *graph.outputs}) == list(graph.steps)


def test_convolutions_in_float16_are_not_folded():
    keras.config.set_dtype_policy("mixed_float16")
    graph = flatten(teacher())
    assert batch_norm.folded(graph.steps, graph.outputs) == list(graph.steps)
