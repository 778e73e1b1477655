"""The training step compared with the paper's equations and with plain Keras."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import equations
import tiny
from keras_hybrid import DynamicBalance, FixedBalance, HybridTransfer, find_stages
from keras_hybrid.baselines import AttentionTransfer
from keras_hybrid.hybrid.adapters import Adapter
from runs import PATH

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy()
POINTS = [("out1", "out1"), ("out2", "out2"), ("out3", "out3")]


def stage_pairs(teacher, student):
    ends = [{s.stride: s.layer_name for s in find_stages(m)} for m in (teacher, student)]
    return [(ends[0][stride], ends[1][stride]) for stride in ends[1] if stride in ends[0]]


def application(name, size=64, **kwargs):
    network = getattr(keras.applications, name)
    return network(weights=None, input_shape=(size, size, 3), **kwargs)


def tiny_pair():
    return tiny.teacher(), tiny.student(), None


def wide_teacher_without_stride_2():
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(5, 4, strides=4, name="stem")(image)
    x = layers.Conv2D(7, 3, strides=2, padding="same", activation="relu", name="deep")(x)
    return keras.Model(image, x), tiny.student(), None


def valid_padding_teacher():
    # 32 -> 15 -> 7 -> 3 pixels where the student has 16, 8, 4.
    x = image = keras.Input((32, 32, 3))
    for i in (1, 2, 3):
        x = layers.Conv2D(4 + i, 3, strides=2, activation="relu", name=f"out{i}")(x)
    sizes = [((n, n), (m, m)) for n, m in [(15, 16), (7, 8), (3, 4)]]
    return keras.Model(image, x), tiny.student(), sizes


def resnet_and_mobilenet():
    student = application("MobileNet", alpha=0.25, classes=4, dropout=0.0)
    return application("ResNet50", include_top=False), student, None


def densenet_and_resnet_v2():
    return (
        application("DenseNet121", include_top=False),
        application("ResNet50V2", classes=4),
        None,
    )


PAIRS = [
    tiny_pair,
    wide_teacher_without_stride_2,
    valid_padding_teacher,
    resnet_and_mobilenet,
    densenet_and_resnet_v2,
]


@pytest.mark.parametrize("alpha", [None, 0.7])
@pytest.mark.parametrize("pair", PAIRS)
def test_training_step_follows_equations_1_and_2(
    pair, alpha, shallow, graph_optimization
):
    # In float32, rounding alone makes gradients of networks this deep differ by 6e-4.
    keras.config.set_dtype_policy("float64")
    teacher, student, sizes = pair()
    points = stage_pairs(teacher, student)
    model = HybridTransfer(
        teacher, student, balance="dynamic" if alpha is None else alpha
    )
    images, labels = tiny.batch(4, size=student.input_shape[1])
    kernels = [(a.convolution.kernel, a.convolution.bias) for a in model.adapters]
    variables = [v.value for v in model.trainable_variables]

    before = [v.numpy() for v in model.variables]
    expected_alpha, losses, gradients = equations.losses_and_gradients(
        lambda: equations.hybrid_forward(
            teacher, student, points, kernels, tf.constant(images), sizes
        ),
        CROSS_ENTROPY,
        labels,
        variables,
        alpha,
    )
    for variable, value in zip(model.variables, before):
        variable.assign(value)

    # With a learning rate of 1, SGD subtracts exactly the gradient. Large networks run
    # eagerly because tracing their graph takes longer than this one step.
    eager = len(student.layers) > 50
    model.compile(keras.optimizers.SGD(1.0), loss=CROSS_ENTROPY, run_eagerly=eager)
    logs = model.train_on_batch(images, labels, return_dict=True)
    assert logs["balance"] == pytest.approx(expected_alpha, rel=1e-4)
    names = "student_first_loss", "teacher_first_loss", "student_loss"
    assert [logs[name] for name in names] == pytest.approx(losses, rel=1e-4)
    total = expected_alpha * (losses[0] + losses[1]) + losses[2]
    assert logs["loss"] == pytest.approx(total, rel=1e-4)
    assert len(model.trainable_variables) == len(student.trainable_variables) + 2 * len(
        model.adapters
    )
    old = dict(zip(map(id, model.variables), before))
    for variable, gradient in zip(model.trainable_variables, gradients):
        taken = old[id(variable)] - variable.numpy()
        scale = max(np.abs(gradient).max(), 1e-2)  # 0 for a bias before BatchNorm
        np.testing.assert_allclose(
            taken / scale, gradient / scale, atol=2e-5, err_msg=variable.path
        )


class OwnBalance(DynamicBalance):
    def __call__(self, student_first_loss, teacher_first_loss, student_loss):
        return 2 * student_loss / (student_first_loss + teacher_first_loss)


@pytest.mark.parametrize("balance", ["dynamic", OwnBalance()], ids=["ours", "own"])
def test_alpha_is_constant_in_the_gradient(balance):
    # L3 = 2 w^2, and L1 = 1 and L2 = 3 do not depend on w.
    model = HybridTransfer(tiny.teacher(), tiny.student(), balance=balance)
    model.compile("sgd", loss=CROSS_ENTROPY)
    images, labels = tiny.batch()
    weight = tf.Variable(1.0)
    model._task_loss = lambda *args, **kwargs: next(losses)
    with tf.GradientTape() as tape:
        # Computed in the order L3, L1, L2.
        losses = iter([2 * weight**2, tf.constant(1.0), tf.constant(3.0)])
        loss = model.compute_loss(images, labels, None, training=True)
    # At w = 1, alpha = 2 * 2 / (1 + 3) = 1 and the loss is 1 * (1 + 3) + 2 = 6. With a
    # constant alpha dL3/dw = 4 w = 4 is left; through alpha = w^2 it would be 12.
    assert float(loss) == 6.0
    assert float(tape.gradient(loss, weight)) == 4.0


@pytest.mark.parametrize("alpha", [1, np.float64(0.5)])
def test_a_balance_may_return_a_number(alpha):
    class Constant(DynamicBalance):
        def __call__(self, *losses):
            return alpha

    model = HybridTransfer(tiny.teacher(), tiny.student(), balance=Constant())
    model.compile("sgd", loss=CROSS_ENTROPY, run_eagerly=True)
    logs = model.train_on_batch(*tiny.batch(), return_dict=True)
    assert logs["balance"] == alpha


def test_alpha_is_zero_when_all_losses_are_zero():
    model = HybridTransfer(tiny.teacher(), tiny.student())
    model.compile("sgd", loss=lambda y, y_pred: 0.0 * y_pred)
    logs = model.train_on_batch(*tiny.batch(), return_dict=True)
    assert logs["balance"] == 0.0
    assert logs["loss"] == 0.0


def test_paths_have_the_weighted_layers_of_the_paper():
    teacher = keras.applications.ResNet50(weights=None)
    student = keras.applications.MobileNet(weights=None)
    model = HybridTransfer(teacher, student, switch_points=(2, 8, 16))
    assert [path.weighted_layers for path in model.paths] == [46, 32, 28]
    owners = ("student", "teacher") * 2
    assert model.paths[0].owners == owners
    assert model.paths[1].owners == owners[1:] + owners[:1]
    assert model.paths[2].owners == ("student",) * 4


def test_paths_predict_probabilities_that_differ():
    student = tiny.student()
    model = HybridTransfer(tiny.teacher(), student)
    images, _ = tiny.batch(1)
    assert [path.name for path in model.paths] == [
        "student_first",
        "teacher_first",
        "plain",
    ]
    for path in model.paths:
        np.testing.assert_allclose(np.sum(path(images), axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(model.paths[-1](images), student(images), rtol=1e-6)
    assert not np.allclose(model.paths[0](images), model.paths[1](images))


def test_teacher_stages_run_in_inference_mode():
    x = image = keras.Input((32, 32, 3))
    for width in (5, 6, 7):
        x = layers.Conv2D(width, 3, strides=2, padding="same", activation="tanh")(x)
        x = layers.Dropout(0.9)(x)
    student_first, teacher_first, _ = HybridTransfer(
        keras.Model(image, x), tiny.student(batch_norm=False)
    ).paths
    images, _ = tiny.batch()
    for path in (student_first, teacher_first):
        np.testing.assert_array_equal(path(images, training=True), path(images))


def test_teacher_preprocessing_can_resize_images():
    teacher, student = tiny.teacher(size=None), tiny.student()
    resizing = layers.Resizing(48, 48)
    model = HybridTransfer(teacher, student, teacher_preprocessing=resizing)
    # The same resizing as a layer inside the teacher, with a fixed input size.
    image = keras.Input((32, 32, 3))
    inside = HybridTransfer(keras.Model(image, teacher(resizing(image))), student)
    for adapter, other in zip(model.adapters, inside.adapters, strict=True):
        other.set_weights(adapter.get_weights())
    images, _ = tiny.batch()
    for path, other in zip(model.paths, inside.paths):
        np.testing.assert_allclose(path(images), other(images), atol=1e-6)


def test_switch_points_by_layer_name_equal_those_by_stride():
    by_name = HybridTransfer(tiny.teacher(), tiny.student(), switch_points=POINTS)
    by_stride = HybridTransfer(tiny.teacher(), tiny.student(), switch_points=(2, 4))
    for named, strided in zip(by_name.paths, by_stride.paths):
        ends = [[s.end.layer_name for s in path.segments] for path in (named, strided)]
        assert ends[0] == ends[1] == ["out1", "out2", "out3"]


def test_a_layer_that_is_called_several_times_is_named_as_often():
    x = image = keras.Input((32, 32, 3))
    shared = layers.Conv2D(3, 3, strides=2, padding="same", name="shared")
    for _ in range(3):
        x = shared(x)
    teacher = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    pairs = [("shared", f"out{i}") for i in (1, 2, 3)]
    model = HybridTransfer(teacher, tiny.student(), switch_points=pairs)
    ends = [segment.end.stride for segment in model.paths[1].segments]
    assert ends == [2, 4, 8]


def test_dilated_networks_switch_at_named_layers():
    def dilated(width):
        image = keras.Input((32, 32, 3))
        x = layers.Conv2D(width, 3, strides=4, padding="same", name="stem")(image)
        x = layers.Conv2D(width, 3, padding="same", dilation_rate=2, name="mid")(x)
        x = layers.Conv2D(width, 3, padding="same", dilation_rate=4, name="end")(x)
        x = layers.Conv2D(2, 1, name="classes")(x)
        return keras.Model(image, layers.UpSampling2D(4, interpolation="bilinear")(x))

    names = [("stem", "stem"), ("mid", "mid"), ("end", "end")]
    model = HybridTransfer(dilated(6), dilated(3), switch_points=names)
    model.compile("sgd", loss="mse")
    images, _ = tiny.batch()
    model.train_on_batch(images, np.zeros((8, 32, 32, 2)))
    assert model.paths[0].owners == ("student", "teacher", "student")
    assert model.predict(images, verbose=0).shape == (8, 32, 32, 2)


@pytest.mark.parametrize("size", [(32, 32), (40, 33), (17, 50)])
def test_training_on_any_image_size(size):
    student = tiny.student(size=None)
    teacher = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.Conv2D(5, 3, strides=2, activation="relu"),
            layers.Conv2D(6, 3, strides=2, activation="relu"),
            layers.Conv2D(7, 3, strides=2, activation="relu"),
        ]
    )
    model = HybridTransfer(teacher, student)
    model.compile("sgd", loss=CROSS_ENTROPY)
    images = np.random.default_rng(0).uniform(size=(6, *size, 3)).astype("float32")
    known = [np.array(path(images)) for path in model.paths]

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3))])
    def unknown(images):
        return [path(images) for path in model.paths]

    for y_known, y_unknown in zip(known, unknown(images)):
        np.testing.assert_allclose(y_known, y_unknown, atol=1e-6)
    data = tf.data.Dataset.from_generator(
        lambda: iter([(images, np.zeros(6)), (images[:1], np.zeros(1))]),
        output_signature=(
            tf.TensorSpec((None, None, None, 3)),
            tf.TensorSpec((None,), "int32"),
        ),
    )
    data = data.apply(tf.data.experimental.assert_cardinality(2))
    model.fit(data, shuffle=False, verbose=0)


@pytest.mark.parametrize("compiles", [True, False])
def test_teacher_is_bit_identical_after_fit(compiles, eager):
    teacher, student = tiny.teacher(), tiny.student()
    model = HybridTransfer(teacher, student)
    model.compile("adam", loss=CROSS_ENTROPY)
    before = [weight.numpy() for weight in teacher.weights]
    assert any("moving" in weight.path for weight in teacher.weights)
    model.trainable = False
    model.trainable = True  # unfreezes all layers, the teacher's too
    if compiles:
        model.compile("adam", loss=CROSS_ENTROPY)
    images, labels = tiny.batch(16)
    trained = [weight.numpy() for weight in student.trainable_weights]
    model.fit(images, labels, batch_size=4, epochs=2, verbose=0)
    for weight, old in zip(teacher.weights, before):
        np.testing.assert_array_equal(weight.numpy(), old)
    for weight, old in zip(student.trainable_weights, trained):
        assert not np.array_equal(weight.numpy(), old), weight.path


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


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("feeding", ["plain", "all"])
def test_moving_averages_are_fed_by_the_chosen_paths(feeding, eager):
    """They are fed by the plain path alone, or by all three paths with "all"."""
    student = tiny.student()
    model = HybridTransfer(tiny.teacher(), student, student_batch_norm=feeding)
    images, labels = tiny.batch(8)
    norms = [student.get_layer(f"bn{i}") for i in (1, 2, 3)]
    inputs = keras.Model(
        student.input, [student.get_layer(f"conv{i}").output for i in (1, 2, 3)]
    )
    # With a learning rate of 0, all batches have the same statistics.
    model.compile(keras.optimizers.SGD(0.0), loss=CROSS_ENTROPY, run_eagerly=eager)
    means = [np.mean(x, (0, 1, 2)) for x in _outputs_in_training(student, inputs, images)]
    for norm in norms:
        norm.moving_mean.assign(np.zeros(norm.moving_mean.shape))
    model.fit(images, labels, batch_size=8, epochs=3, verbose=0)
    for i, (norm, mean) in enumerate(zip(norms, means)):
        plain_only = mean * (1 - 0.9**3)
        if feeding == "plain":
            np.testing.assert_allclose(norm.moving_mean, plain_only, rtol=1e-4, atol=1e-6)
        else:
            assert not np.allclose(norm.moving_mean, plain_only, rtol=1e-2), i
    if feeding == "all":  # two paths run S1 on the images, so it is fed twice a step
        np.testing.assert_allclose(
            norms[0].moving_mean, means[0] * (1 - 0.9**6), rtol=1e-4, atol=1e-6
        )


def _outputs_in_training(student, inputs, images):
    state = [v.numpy() for v in student.variables]
    values = inputs(images, training=True)
    for variable, value in zip(student.variables, state):
        variable.assign(value)
    return values


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
    call = "import transfer_test as t; t.train_in_mixed_precision('mixed_bfloat16')"
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


def test_a_frozen_student_stage_does_not_change():
    student = tiny.student(batch_norm=False)
    student.get_layer("conv1").trainable = False
    kernel = student.get_layer("conv1").kernel
    before = kernel.numpy()
    model = HybridTransfer(tiny.teacher(), student)
    model.compile("sgd", loss=CROSS_ENTROPY)
    model.fit(*tiny.batch(), verbose=0)
    np.testing.assert_array_equal(kernel.numpy(), before)


def test_each_path_draws_its_own_dropout_mask():
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(image)
    x = layers.Conv2D(4, 3, strides=2, padding="same")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.5, seed=1)(x)
    student = keras.Model(image, layers.Dense(4, activation="softmax")(x))
    model = HybridTransfer(tiny.teacher(), student)
    model.compile(keras.optimizers.SGD(0.0), loss=CROSS_ENTROPY)
    state = student.layers[-2].seed_generator.state
    before = state.numpy()
    model.train_on_batch(*tiny.batch())
    assert (state.numpy() - before).tolist() == [0, 3]


class NormAndDropout(Adapter):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm = layers.BatchNormalization(name="norm")
        self.dropout = layers.Dropout(0.5, seed=1, name="dropout")

    def call(self, x, size):
        return self.dropout(self.norm(super().call(x, size)))


@pytest.mark.parametrize("plus", [None, "at"])
def test_layers_in_adapters_train(plus, eager):
    plus = plus and AttentionTransfer(1.0)
    model = HybridTransfer(
        tiny.teacher(), tiny.student(), adapter=NormAndDropout, plus=plus
    )
    model.compile("sgd", loss=CROSS_ENTROPY)
    drawn = [layer.dropout.seed_generator.state for layer in model.adapters]
    before = [state.numpy() for state in drawn]
    model.train_on_batch(*tiny.batch())
    after = [state.numpy() for state in drawn]
    assert np.subtract(after, before).tolist() == [[0, 1]] * len(drawn)
    # Of a batch whose mean is m, the moving mean is 0.01 m.
    assert all(np.any(layer.norm.moving_mean.numpy()) for layer in model.adapters)


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
