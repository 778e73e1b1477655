"""The training step compared with the paper's equations."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import equations
import tiny
from keras_hybrid import DynamicBalance, HybridTransfer, find_stages
from keras_hybrid.baselines import AttentionTransfer
from keras_hybrid.hybrid.adapters import Adapter

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
