"""What `compile`, `fit` and Keras's settings do, as with a plain Keras model."""

import inspect
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import tiny
from keras_hybrid import FixedBalance, HybridTransfer
from keras_hybrid.baselines import FeatureTransfer
from runs import PATH

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy()


def test_evaluate_and_predict_run_the_student_and_change_nothing():
    student = tiny.student()
    model = HybridTransfer(tiny.teacher(), student, track_paths=True)
    model.compile("sgd", loss=CROSS_ENTROPY, metrics=["accuracy"])
    images, labels = tiny.batch(16)
    model.fit(images, labels, verbose=0)
    variables = [*model.variables, *model.optimizer.variables]
    before = [v.numpy() for v in variables]
    logs = model.evaluate(images, labels, verbose=0, return_dict=True)
    predictions = model.predict(images, verbose=0)
    for variable, old in zip(variables, before):
        np.testing.assert_array_equal(variable.numpy(), old)
    assert set(logs) == {"loss", "accuracy"}
    assert set(model.test_on_batch(images, labels, return_dict=True)) == set(logs)
    np.testing.assert_allclose(predictions, student.predict(images, verbose=0))
    assert logs["loss"] == pytest.approx(
        float(CROSS_ENTROPY(labels, predictions)), rel=1e-5
    )


def test_history_has_losses_alpha_and_metrics_of_all_paths():
    model = HybridTransfer(tiny.teacher(), tiny.student(), track_paths=True)
    model.compile("sgd", loss=CROSS_ENTROPY, metrics=["accuracy"])
    images, labels = tiny.batch(16)
    history = model.fit(
        images, labels, batch_size=8, validation_data=(images, labels), verbose=0
    ).history
    losses = "student_loss", "student_first_loss", "teacher_first_loss", "balance"
    accuracies = "accuracy", "student_first_accuracy", "teacher_first_accuracy"
    validation = "val_loss", "val_accuracy"
    assert set(history) == {"loss", *losses, *accuracies, *validation}
    assert list(model.get_metrics_result()) == ["loss", *losses, *accuracies]


def test_compile_takes_what_keras_takes():
    ours, of_keras = (
        inspect.signature(model.compile).parameters.values()
        for model in (HybridTransfer, keras.Model)
    )
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in of_keras]


def test_compiled_again_without_metrics():
    model = HybridTransfer(tiny.teacher(), tiny.student(), track_paths=True)
    model.compile("sgd", loss=CROSS_ENTROPY, metrics=["accuracy"], run_eagerly=True)
    assert "student_first_accuracy" in model.train_on_batch(
        *tiny.batch(), return_dict=True
    )
    model.compile("sgd", loss=CROSS_ENTROPY, run_eagerly=True)
    logs = model.train_on_batch(*tiny.batch(), return_dict=True)
    assert {"accuracy", "student_first_accuracy"} < logs.keys()  # Keras keeps them


def test_path_metrics_are_computed_from_the_paths_predictions():
    model = HybridTransfer(
        tiny.teacher(), tiny.student(batch_norm=False), track_paths=True
    )
    metric = keras.metrics.SparseCategoricalAccuracy(name="top1")
    model.compile(keras.optimizers.SGD(0.0), loss=CROSS_ENTROPY, metrics=[metric])
    images, labels = tiny.batch(16)
    logs = model.train_on_batch(images, labels, return_dict=True)
    for path, name in zip(model.paths, ("student_first_", "teacher_first_", "")):
        right = np.argmax(path(images), axis=-1) == labels
        assert logs[f"{name}top1"] == pytest.approx(right.mean())


def compile_both(plain, **compile_args):
    """A student alone and a copy of it in a `HybridTransfer` with alpha = 0, compiled."""
    hybrid_student = keras.models.clone_model(plain)
    hybrid_student.set_weights(plain.get_weights())
    hybrid = HybridTransfer(tiny.teacher(), hybrid_student, balance=0)
    for model in (plain, hybrid):
        model.compile(**{"optimizer": "sgd", "loss": CROSS_ENTROPY, **compile_args})
    return plain, hybrid


CLASS_WEIGHT = {0: 0.5, 1: 2.0, 2: 0.1, 3: 1.0}
AS_IN_KERAS = {
    "plain": ({}, {}),
    "sample weights": ({}, {"sample_weight": np.linspace(0, 2, 32)}),
    "class weights": ({}, {"class_weight": CLASS_WEIGHT}),
    "steps per execution": ({"steps_per_execution": 8}, {}),
    "eager": ({"run_eagerly": True}, {}),
    "accumulation": (
        {"optimizer": keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)},
        {},
    ),
    "averaged weights": ({"optimizer": keras.optimizers.SGD(0.1, use_ema=True)}, {}),
}


@pytest.mark.parametrize("case", AS_IN_KERAS)
def test_training_with_alpha_zero_equals_plain_keras(case):
    compile_args, fit_args = AS_IN_KERAS[case]
    optimizer = compile_args.get("optimizer", keras.optimizers.SGD(0.1))
    student = tiny.student(
        kernel_regularizer=keras.regularizers.L2(0.01),
        activity_regularizer=keras.regularizers.L2(0.1),
    )
    images, labels = tiny.batch(32)
    histories = []
    for model in compile_both(student):
        own = {
            **compile_args,
            "optimizer": type(optimizer).from_config(optimizer.get_config()),
        }
        model.compile(loss=CROSS_ENTROPY, metrics=["accuracy"], **own)
        fit = model.fit(
            images, labels, batch_size=4, epochs=2, shuffle=False, verbose=0, **fit_args
        )
        histories.append((fit.history, getattr(model, "student", model)))
    (plain, plain_student), (hybrid, hybrid_student) = histories
    np.testing.assert_allclose(plain["loss"], hybrid["loss"], rtol=1e-5)
    np.testing.assert_allclose(plain["accuracy"], hybrid["accuracy"], rtol=1e-5)
    for expected, weight in zip(plain_student.weights, hybrid_student.weights):
        np.testing.assert_allclose(
            expected.numpy(), weight.numpy(), atol=1e-5, err_msg=weight.path
        )


def test_add_loss_and_regularisation_count_once_outside_alpha():
    class Penalty(layers.Layer):
        def call(self, x):
            self.add_loss(100.0 * keras.ops.mean(keras.ops.square(x)))
            return x

    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(image)
    x = Penalty()(x)
    x = layers.Conv2D(4, 3, strides=2, padding="same", kernel_regularizer="l2")(x)
    x = layers.GlobalAveragePooling2D()(x)
    student = keras.Model(image, layers.Dense(4, activation="softmax")(x))
    model = HybridTransfer(tiny.teacher(), student, balance=FixedBalance(0.5))
    model.compile(keras.optimizers.SGD(0.0), loss=CROSS_ENTROPY)
    images, labels = tiny.batch()
    student(images)
    penalties = float(sum(student.losses))
    assert penalties > 1
    for _ in range(2):
        model.reset_metrics()
        logs = model.train_on_batch(images, labels, return_dict=True)
        hybrid = logs["student_first_loss"] + logs["teacher_first_loss"]
        expected = 0.5 * hybrid + logs["student_loss"] + penalties
        assert logs["loss"] == pytest.approx(expected, rel=1e-5)


def test_training_in_mixed_float16():
    train_in_mixed_precision("mixed_float16")


def test_training_in_mixed_bfloat16():
    """Runs in a process without oneDNN, whose bfloat16 convolutions need AVX-512.

    TensorFlow 2.21 checks the CPU for it and ignores ONEDNN_MAX_CPU_ISA.
    """
    call = "import transfer_keras_test as t; t.train_in_mixed_precision('mixed_bfloat16')"
    folder = pathlib.Path(__file__).parent
    paths = os.pathsep.join([str(folder.parent), *PATH.values()])
    environment = {**os.environ, "PYTHONPATH": paths, "TF_ENABLE_ONEDNN_OPTS": "0"}
    subprocess.run([sys.executable, "-c", call], check=True, cwd=folder, env=environment)


def train_in_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    model = HybridTransfer(tiny.teacher(), tiny.student())
    model.compile(keras.optimizers.SGD(0.05), loss=CROSS_ENTROPY)
    for adapter in model.adapters:
        assert adapter.convolution.compute_dtype == policy.removeprefix("mixed_")
        assert adapter.convolution.kernel.dtype == "float32"
    scales = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scales == (policy == "mixed_float16")
    images, labels = tiny.batch(8)
    y = model.student(images)
    assert model._task_loss(images, labels, y, None).dtype == "float32"
    history = model.fit(images, labels, batch_size=8, epochs=12, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert history["student_loss"][-1] < history["student_loss"][0]


def test_bytes_are_preprocessed_as_floats_are(eager):
    """A function such as Keras's own subtracts means in the dtype of the images."""
    model = HybridTransfer(
        tiny.teacher(),
        tiny.student(batch_norm=False),
        teacher_preprocessing=keras.applications.resnet50.preprocess_input,
    )
    model.compile(keras.optimizers.SGD(0.0), loss=CROSS_ENTROPY)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3))
    losses = [
        model.train_on_batch(images.astype(dtype), np.arange(4), return_dict=True)
        for dtype in ("uint8", "float32")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_metrics_that_start_with_their_first_batch(run_eagerly):
    student = tiny.student(batch_norm=False)
    model = HybridTransfer(tiny.teacher(), student, track_paths=True)
    model.compile(
        keras.optimizers.SGD(0.0),
        "categorical_crossentropy",
        metrics=[keras.metrics.F1Score(average="macro", name="f1")],
        run_eagerly=run_eagerly,
    )
    images, labels = tiny.batch(8)
    truth = np.eye(4, dtype="float32")[labels]
    logs = model.fit(images, truth, batch_size=4, shuffle=False, verbose=0).history
    expected = keras.metrics.F1Score(average="macro")
    expected.update_state(truth, model.paths[0](images))
    assert logs["student_first_f1"][0] == pytest.approx(float(expected.result()))


def test_metrics_of_paths_are_named_as_those_of_the_student(eager):
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(image)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, strides=2)(x))
    outputs = layers.Dense(4, "softmax", name="kind"), layers.Dense(1, name="size")
    student = keras.Model(image, [layer(x) for layer in outputs])
    model = HybridTransfer(tiny.teacher(), student, track_paths=True)
    metrics = {"kind": ["accuracy"], "size": ["mae"]}
    model.compile("sgd", {"kind": CROSS_ENTROPY, "size": "mse"}, metrics=metrics)
    images, labels = tiny.batch(4)
    targets = {"kind": labels, "size": np.ones((4, 1))}
    logs = model.train_on_batch(images, targets, return_dict=True)
    assert {"kind_accuracy", "student_first_kind_accuracy"} <= logs.keys()


def test_a_loss_of_a_subclass_is_trained_on():
    class Model(HybridTransfer):
        def compute_loss(self, *args, **kwargs):
            return 3.0 * super().compute_loss(*args, **kwargs)

    keras.utils.set_random_seed(1)
    model = HybridTransfer(tiny.teacher(), tiny.student())
    other = Model(keras.models.clone_model(model.teacher), tiny.student())
    other.teacher.set_weights(model.teacher.get_weights())
    for one, same in zip(model.trainable_weights, other.trainable_weights, strict=True):
        same.assign(one)
    losses = []
    for each, rate in ((model, 0.3), (other, 0.1)):
        each.compile(keras.optimizers.SGD(rate), CROSS_ENTROPY)
        losses.append(each.train_on_batch(*tiny.batch(), return_dict=True)["loss"])
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-5)
    for one, same in zip(model.trainable_weights, other.trainable_weights, strict=True):
        np.testing.assert_allclose(one.numpy(), same.numpy(), atol=1e-5)


class Owner:
    """A weight, a metric and a loss of a subclass's own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.weight = self.add_weight(shape=(2,), initializer="zeros", name="weight")
        self.seen = keras.metrics.Mean(name="seen")

    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs) + ops.sum(self.weight)

    def compute_metrics(self, *args, **kwargs):
        self.seen.update_state(7.0)
        return super().compute_metrics(*args, **kwargs)


@keras.saving.register_keras_serializable("tests")
class OwnerOfPaths(Owner, HybridTransfer): ...


@keras.saving.register_keras_serializable("tests")
class OwnerOfBaseline(Owner, FeatureTransfer): ...


@pytest.mark.parametrize("kind", [OwnerOfPaths, OwnerOfBaseline])
def test_what_a_subclass_has_of_its_own(kind, tmp_path):
    method = ["at"] if kind is OwnerOfBaseline else []
    model = kind(tiny.teacher(), tiny.student(), *method)
    model.compile(keras.optimizers.SGD(0.01), CROSS_ENTROPY)
    assert model.fit(*tiny.batch(), verbose=0).history["seen"] == [7.0]
    np.testing.assert_allclose(model.weight.numpy(), -0.01, rtol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.weight, model.weight)


@pytest.mark.parametrize("kind", [OwnerOfPaths, OwnerOfBaseline])
def test_methods_of_a_subclass_are_used_in_evaluation(kind):
    """Without hybrid losses, although its `compute_loss` is not told what it is for."""
    method = ["at"] if kind is OwnerOfBaseline else []
    model = kind(tiny.teacher(), tiny.student(), *method)
    model.compile(keras.optimizers.SGD(0.0), CROSS_ENTROPY, metrics=["accuracy"])
    model.weight.assign([1.0, 2.0])
    data = tiny.batch()
    logs = model.fit(*data, validation_data=data, verbose=0).history
    validation = {name: logs[name] for name in logs if name.startswith("val_")}
    assert validation.keys() == {"val_loss", "val_accuracy", "val_seen"}
    expected = float(CROSS_ENTROPY(data[1], model.student(data[0], training=False)))
    assert validation["val_loss"] == [pytest.approx(expected + 3, rel=1e-5)]
    assert validation["val_seen"] == [7.0]
    logs = model.evaluate(*data, verbose=0, return_dict=True)
    assert {f"val_{name}": [value] for name, value in logs.items()} == validation


def test_predict_follows_compile():
    model = HybridTransfer(tiny.teacher(), tiny.student())
    model.compile("sgd", CROSS_ENTROPY)
    images, _ = tiny.batch()
    before = model.predict(images, verbose=0)
    classifier = model.student.get_layer("classifier")
    classifier.enable_lora(2)
    model.compile("sgd", CROSS_ENTROPY)
    classifier.lora_kernel_b.assign(np.arange(8.0).reshape(2, 4))
    after = model.predict(images, verbose=0)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, model.student(images), atol=1e-6)
    seen = []
    model.compile("sgd", CROSS_ENTROPY, run_eagerly=True)
    callback = keras.callbacks.LambdaCallback(
        on_predict_batch_end=lambda batch, logs: seen.append(callback.model)
    )
    model.predict(images, verbose=0, callbacks=[callback])
    assert seen == [model]
    assert model.predict_function is not None


def test_averaged_weights_are_swapped_in_for_predictions():
    model = HybridTransfer(tiny.teacher(), tiny.student())
    model.compile(keras.optimizers.SGD(0.5, use_ema=True), CROSS_ENTROPY)
    images, labels = tiny.batch()
    for _ in range(2):
        model.train_on_batch(images, labels)
    trained = model.predict(images, verbose=0)
    swap = keras.callbacks.SwapEMAWeights()
    averaged = model.predict(images, verbose=0, callbacks=[swap])
    assert np.abs(averaged - trained).max() > 1e-4


def test_a_predict_step_of_a_subclass_is_used():
    class Label(HybridTransfer):
        def predict_step(self, data):
            return ops.argmax(super().predict_step(data), axis=-1)

    images, _ = tiny.batch()
    assert Label(tiny.teacher(), tiny.student()).predict(images, verbose=0).shape == (8,)


def test_a_predict_of_the_student_is_used():
    class Named(keras.Model):
        def predict(self, *args, **kwargs):
            return {"scores": super().predict(*args, **kwargs)}

    student = tiny.student()
    model = HybridTransfer(tiny.teacher(), Named(student.input, student.output))
    assert list(model.predict(tiny.batch()[0], verbose=0)) == ["scores"]


def test_a_weight_of_a_subclass_trains_without_hybrid_paths():
    model = OwnerOfPaths(tiny.teacher(), tiny.student())
    model.hybrid = False
    model.compile(keras.optimizers.SGD(0.01), CROSS_ENTROPY)
    model.fit(*tiny.batch(), verbose=0)
    np.testing.assert_allclose(model.weight.numpy(), -0.01, rtol=1e-6)


def test_values_are_in_the_order_of_their_names():
    model = HybridTransfer(tiny.teacher(), tiny.student())
    model.compile("sgd", CROSS_ENTROPY)
    values = model.train_on_batch(*tiny.batch())
    assert dict(zip(model.metrics_names, values, strict=True)) == {
        name: pytest.approx(value) for name, value in model.get_metrics_result().items()
    }


def test_training_in_float64(eager):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        model = HybridTransfer(tiny.teacher(), tiny.student())
        model.compile("sgd", loss=CROSS_ENTROPY)
        assert np.isfinite(model.train_on_batch(*tiny.batch())).all()
        assert {weight.dtype for weight in model.trainable_weights} == {"float64"}
    finally:
        keras.config.set_floatx("float32")


def test_terminate_on_nan_stops_training():
    model = HybridTransfer(tiny.teacher(), tiny.student())
    model.compile("sgd", loss=lambda y, y_pred: y_pred * np.nan)
    stop = keras.callbacks.TerminateOnNaN()
    images, labels = tiny.batch(8)
    model.fit(images, labels, batch_size=2, epochs=3, callbacks=[stop], verbose=0)
    assert model.stop_training


def test_a_student_with_several_outputs():
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(image)
    x = layers.Conv2D(4, 3, strides=2, padding="same")(x)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = {"a": layers.Dense(1, name="a")(x), "b": layers.Dense(2, name="b")(x)}
    model = HybridTransfer(tiny.teacher(), keras.Model(image, outputs))
    model.compile("sgd", loss={"a": "mse", "b": "mae"}, metrics={"a": ["mae"]})
    images, _ = tiny.batch()
    targets = {"a": np.zeros((8, 1)), "b": np.ones((8, 2))}
    logs = model.train_on_batch(images, targets, return_dict=True)
    # The losses logged per output are those of the plain path.
    assert logs["a_loss"] + logs["b_loss"] == pytest.approx(logs["student_loss"])
    assert set(model.predict(images, verbose=0)) == {"a", "b"}


@pytest.mark.parametrize("balance", ["dynamic", 0])
def test_an_auxiliary_head_trains_on_every_path(balance):
    """Deep supervision: every loss has both outputs; the joint is the coarsest map."""

    def new():
        keras.utils.set_random_seed(1)
        student = tiny.student(batch_norm=False)
        x = layers.Conv2D(3, 3, activation="relu", name="aux_1")(
            student.get_layer("out2").output
        )
        x = layers.Dense(4, activation="softmax", name="aux")(layers.Flatten()(x))
        return keras.Model(student.input, [x, student.output])

    student, alone = new(), new()
    model = HybridTransfer(tiny.teacher(), student, switch_points=(2,), balance=balance)
    assert [s.end.layer_name for s in model.paths[-1].segments] == ["out1", "out3"]
    # Student-first: the teacher runs from stride 2 to 8, so its map at stride 4, which
    # feeds the auxiliary head, needs an adapter.
    assert [adapter.name for adapter in model.paths[0].adapters] == [
        "student_first_adapter_1",
        "student_first_feature_adapter_4",
        "student_first_adapter_2",
    ]
    images, labels = tiny.batch()
    predictions = [path(images) for path in model.paths]
    assert_pairs_equal(predictions[-1], student(images))
    assert not np.allclose(predictions[0][0], predictions[1][0])
    settings = {"loss": [CROSS_ENTROPY] * 2, "loss_weights": [0.4, 1.0]}
    model.compile(keras.optimizers.SGD(0.1), **settings)
    logs = model.train_on_batch(images, [labels] * 2, return_dict=True)
    for name, both in zip(("student_first", "teacher_first", "student"), predictions):
        losses = [float(CROSS_ENTROPY(labels, y)) for y in both]
        expected = 0.4 * losses[0] + losses[1]
        assert logs[f"{name}_loss"] == pytest.approx(expected, rel=1e-4)
    if balance == 0:
        alone.compile(keras.optimizers.SGD(0.1), **settings)
        alone.train_on_batch(images, [labels] * 2)
        assert_pairs_equal(alone(images), student(images))


def assert_pairs_equal(received, expected):
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_call_in_mixed_precision_leaves_the_images_to_the_student():
    keras.config.set_dtype_policy("mixed_bfloat16")
    image = keras.Input((32, 32, 3), dtype="float32")
    student = keras.Model(
        image, tiny.student()(keras.layers.Rescaling(1 / 255, dtype="float32")(image))
    )
    model = HybridTransfer(tiny.teacher(), student)
    images = 127.5 + 127.5 * tiny.batch()[0]  # between whole numbers
    np.testing.assert_array_equal(model(images), student(images))
