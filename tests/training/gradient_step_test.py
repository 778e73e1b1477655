"""The gradient step on replicas equals that of plain Keras on one device."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import detectors
import steps
import tiny
from keras_hybrid import HybridTransfer
from keras_hybrid.baselines import FeatureTransfer
from keras_hybrid.recipes.engine.run import Alone
from keras_hybrid.training.gradient_step import GradientStep
from replicas import strategy


@pytest.mark.parametrize(("policy", "arguments"), steps.CASES, ids=str)
def test_gradient_step_equals_keras_on_one_device_and_on_replicas(policy, arguments):
    one_device = tf.distribute.get_strategy()
    runs = [steps.trained(one_device, keras.Model, policy, arguments)]
    strategies = one_device, strategy(1), strategy(2)
    for devices in strategies:
        runs.append(steps.trained(devices, steps.Model, policy, arguments))
    for (_, expected), *others in zip(*runs, strict=True):
        for devices, (_, model) in zip(strategies, others, strict=True):
            taken = [int(m.optimizer.iterations.numpy()) for m in (expected, model)]
            assert taken[0] == taken[1] > 2
            for weight, other in zip(expected.weights, model.weights):
                assert np.isfinite(weight.numpy()).all()
                copies = devices.experimental_local_results(other.value)
                assert len(copies) == devices.num_replicas_in_sync
                for copy in copies:
                    np.testing.assert_allclose(copy.numpy(), weight.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["nadam", "adafactor"])
def test_optimizers_that_set_the_values_of_their_variables(name):
    results = []
    for model_class in (keras.Model, steps.Model):
        model = steps.compiled(tf.distribute.get_strategy(), model_class, "float32", {})
        model.compile(name, "mse")
        x, y = steps.data("first")
        model.fit(x, y, batch_size=steps.BATCH, shuffle=False, verbose=0)
        results.append(model.get_weights())
    for weight, value in zip(*results, strict=True):
        np.testing.assert_allclose(weight, value, atol=1e-5)


@pytest.mark.parametrize("replicas", [1, 2])
def test_apply_gradients_of_an_optimizer_is_used(replicas):
    class Counting(keras.optimizers.SGD):
        def apply_gradients(self, grads_and_vars):
            pairs = list(grads_and_vars)
            counted.append(len(pairs))
            return super().apply_gradients(pairs)

    counted = []
    with strategy(replicas).scope():
        model = steps.compiled(strategy(replicas), steps.Model, "float32", {})
        model.compile(Counting(0.1), "mse")
    before = model.get_weights()
    x, y = steps.data(None)
    model.fit(x, y, batch_size=steps.BATCH, shuffle=False, verbose=0)
    assert set(counted) == {len(model.trainable_variables)}
    assert np.abs(model.get_weights()[0] - before[0]).max() > 0


def test_loss_scale_is_a_variable_from_the_first_trace_on():
    """Keras alone traces a constant scale if the optimizer is not built yet."""
    case = tf.distribute.get_strategy(), "mixed_float16", {"clipnorm": 0.5}
    expected, model = (
        steps.compiled(case[0], model_class, *case[1:])
        for model_class in (keras.Model, steps.Model)
    )
    x, y = steps.data("first")
    for each in (expected, model):
        each.fit(x, y, batch_size=steps.BATCH, shuffle=False, verbose=0)
    for weight, value in zip(model.get_weights(), expected.get_weights()):
        np.testing.assert_allclose(weight, value, atol=1e-5)


def alone():
    student = tiny.student()
    return Alone(student.input, student.output)


MODELS = {
    "hybrid": lambda: HybridTransfer(tiny.teacher(), tiny.student()),
    "fitnet": lambda: FeatureTransfer(tiny.teacher(), tiny.student(), "fitnet"),
    "alone": alone,
    "detector": detectors.small,
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_clips_the_gradient_of_the_global_batch(name):
    """With a learning rate of 1, the update is the clipped gradient."""
    with strategy(2).scope():
        model = MODELS[name]()
        loss = None if name == "detector" else "sparse_categorical_crossentropy"
        model.compile(keras.optimizers.SGD(1.0, global_clipnorm=1e-2), loss)
    before = [variable.numpy() for variable in model.trainable_variables]
    images, truth = detectors.people(4) if name == "detector" else tiny.batch(8)
    model.fit(images, truth, batch_size=len(images), verbose=0)
    after = [variable.numpy() for variable in model.trainable_variables]
    squares = [np.sum((a - b) ** 2) for a, b in zip(after, before)]
    assert np.sqrt(sum(squares)) == pytest.approx(1e-2, rel=1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_train_step_is_traced_once(name, steps_per_execution, monkeypatch):
    """Optimizer and metrics create their variables outside of the traced function."""
    step, traces = GradientStep._train_step, []

    def counted(self, data):
        traces.append(name)
        return step(self, data)

    monkeypatch.setattr(GradientStep, "_train_step", counted)
    model = MODELS[name]()
    is_detector = name == "detector"
    model.compile(
        "adam",
        loss=None if is_detector else "sparse_categorical_crossentropy",
        metrics=None if is_detector else ["accuracy"],
        steps_per_execution=steps_per_execution,
    )
    images, truth = detectors.people(4) if is_detector else tiny.batch(8)
    model.fit(images, truth, batch_size=len(images) // 2, verbose=0)
    assert len(traces) == 1
    assert model.optimizer.iterations == 2


def test_an_overflow_on_any_replica_skips_the_step_on_all():
    images, labels = tiny.batch(8)
    images[-1] = 1e6  # infinite in float16
    keras.config.set_dtype_policy("mixed_float16")
    with strategy(2).scope():
        model = HybridTransfer(tiny.teacher(), tiny.student(batch_norm=False))
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    before = [variable.numpy() for variable in model.trainable_variables]
    model.fit(images, labels, batch_size=8, verbose=0)
    for weight, value in zip(model.trainable_variables, before):
        np.testing.assert_array_equal(weight.numpy(), value)
    scale = model.optimizer.dynamic_scale.numpy()
    assert scale == model.optimizer.initial_scale / 2


def test_a_variable_without_gradient_triggers_the_warning_of_keras():
    class HalfUsed(steps.Model):
        def compute_loss(self, x, y, y_pred, sample_weight):  # without `training`
            return (
                keras.ops.mean(y_pred[0]) / self.distribute_strategy.num_replicas_in_sync
            )

    with strategy(2).scope():
        image = keras.Input((4,))
        used, unused = keras.layers.Dense(1), keras.layers.Dense(1, name="unused")
        model = HalfUsed(image, [used(image), unused(image)])
        model.compile(keras.optimizers.SGD(0.5))
    before = used.kernel.numpy()
    x = np.ones((4, 4), "float32")
    with pytest.warns(UserWarning, match="Gradients do not exist.*unused/kernel"):
        model.fit(x, np.zeros(4), batch_size=4, verbose=0)
    # All inputs are ones, so each gradient of the kernel is 1.
    np.testing.assert_allclose(used.kernel.numpy(), before - 0.5, rtol=1e-6)
