"""Training and evaluation with each baseline method."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from compared import compared, teacher_of

import detectors
import tiny
from keras_hybrid import HybridTransfer
from keras_hybrid.baselines import METHODS, FeatureTransfer
from replicas import strategy

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy()


def pair(method, **kwargs):
    return FeatureTransfer(teacher_of(method), tiny.student(), method, **kwargs)


@pytest.mark.parametrize("method", METHODS)
def test_training_step_minimises_the_sum_of_both_losses(method):
    model = pair(method, weight=3.0)
    images, labels = tiny.batch()
    takes = model.transfer_loss.takes
    variables = [v.value for v in model.trainable_variables]
    before = [v.numpy() for v in model.variables]
    of_teacher = compared(model, takes, "teacher", images, training=False)
    with tf.GradientTape() as tape:
        task = CROSS_ENTROPY(labels, model.student(images, training=True))
        of_student = compared(model, takes, "student", images, training=True)
        transfer = model.transfer_loss(of_teacher, of_student)
        total = task + transfer
    gradients = tape.gradient(total, variables)
    for variable, value in zip(model.variables, before):
        variable.assign(value)

    model.compile(keras.optimizers.SGD(1.0), loss=CROSS_ENTROPY)
    logs = model.train_on_batch(images, labels, return_dict=True)
    assert logs["student_loss"] == pytest.approx(float(task), rel=1e-4)
    assert logs["transfer_loss"] == pytest.approx(float(transfer), rel=1e-4)
    assert logs["loss"] == pytest.approx(float(total), rel=1e-4)
    assert float(transfer) > 0
    old = dict(zip(map(id, model.variables), before))
    for variable, gradient in zip(model.trainable_variables, gradients):
        taken = old[id(variable)] - variable.numpy()
        scale = max(np.abs(gradient).max(), 1e-2)
        np.testing.assert_allclose(
            taken / scale, gradient / scale, atol=2e-3, err_msg=variable.path
        )


@pytest.mark.parametrize("method", METHODS)
def test_weight_multiplies_the_transfer_loss(method):
    images, labels = tiny.batch()
    losses = []
    for weight in (0.0, 1.0, 2.0):
        keras.utils.set_random_seed(0)
        model = pair(method, weight=weight)
        model.compile("sgd", loss=CROSS_ENTROPY, run_eagerly=True)  # one step: no graph
        logs = model.train_on_batch(images, labels, return_dict=True)
        losses.append(logs["transfer_loss"])
    # In factor transfer, the loss of the paraphraser is not weighted.
    assert method == "ft" or losses[0] == 0
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_the_teacher_is_frozen_and_the_student_is_evaluated(method, eager):
    model = pair(method)
    model.compile("adam", loss=CROSS_ENTROPY, metrics=["accuracy"])
    images, labels = tiny.batch(16)
    teacher = [v.numpy() for v in model.teacher.variables]
    history = model.fit(images, labels, batch_size=8, epochs=2, verbose=0).history
    for variable, value in zip(model.teacher.variables, teacher):
        np.testing.assert_array_equal(variable, value)
    assert set(history) == {"loss", "student_loss", "transfer_loss", "accuracy"}
    state = [v.numpy() for v in model.variables]
    np.testing.assert_array_equal(
        model.predict(images, verbose=0), model.student.predict(images, verbose=0)
    )
    evaluated = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert set(evaluated) == {"loss", "accuracy"}
    metrics = {id(v) for v in model.metrics_variables}
    for variable, value in zip(model.variables, state):
        if id(variable) not in metrics:
            np.testing.assert_array_equal(variable, value)


@keras.saving.register_keras_serializable("tests")
class Counter(keras.layers.Layer):
    """Counts how often it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.calls = self.add_weight(initializer="zeros", trainable=False, name="calls")

    def call(self, x):
        self.calls.assign_add(1.0)
        return x


@pytest.mark.parametrize("kind", ["at", "kd", "plus at", "plus kd"])
def test_no_variable_of_the_teacher_changes(kind):
    student = tiny.student()
    teacher = keras.models.clone_model(student)
    counter = Counter()
    image = keras.Input((32, 32, 3))
    teacher = keras.Model(image, teacher(counter(image)))
    plus, _, method = kind.rpartition(" ")
    if plus:
        model = HybridTransfer(teacher, student, plus=METHODS[method](1.0))
    else:
        model = FeatureTransfer(teacher, student, method)
    model.compile("sgd", loss=CROSS_ENTROPY)
    calls = float(counter.calls.numpy())
    model.fit(*tiny.batch(), verbose=0)
    assert float(counter.calls.numpy()) == calls


def test_the_layers_are_both_networks_and_the_loss():
    model = pair("kd")
    assert model.layers == [model.teacher, model.student, model.transfer_loss]


def test_images_in_uint8_are_preprocessed_as_they_are():
    image = keras.Input((32, 32, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    student = keras.Model(image, tiny.student()(scaled))
    seen = []

    def preprocess(images):
        seen.append(keras.backend.standardize_dtype(images.dtype))
        return keras.ops.cast(images, "float32")

    model = FeatureTransfer(
        tiny.teacher(), student, "at", teacher_preprocessing=preprocess
    )
    model.compile("sgd", loss=CROSS_ENTROPY)
    images, labels = tiny.batch()
    model.train_on_batch((127 * images + 127).astype("uint8"), labels)
    assert set(seen) == {"uint8"}


def test_moving_averages_are_updated_once_per_step():
    keras.utils.set_random_seed(1)
    alone = tiny.student()
    model = FeatureTransfer(
        tiny.teacher(), keras.models.clone_model(alone), "at", weight=0.0
    )
    model.student.set_weights(alone.get_weights())
    images, labels = tiny.batch()
    for network in (alone, model):
        network.compile(keras.optimizers.SGD(0.1), loss=CROSS_ENTROPY)
        network.train_on_batch(images, labels)
    for one, other in zip(alone.weights, model.student.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6, err_msg=one.path)


def test_compute_loss_equals_the_loss_of_train_step():
    # On JAX and PyTorch, `fit` calls `compute_loss`, which runs the student for its maps.
    model = pair("fitnet")
    model.compile(keras.optimizers.SGD(0.0), loss=CROSS_ENTROPY)
    images, labels = tiny.batch()
    y_pred = model(images, training=True)
    before = [v.numpy() for v in model.student.non_trainable_variables]
    loss = float(model.compute_loss(images, labels, y_pred, training=True))
    for variable, value in zip(model.student.non_trainable_variables, before):
        np.testing.assert_array_equal(variable, value)
    logs = model.train_on_batch(images, labels, return_dict=True)
    assert loss == pytest.approx(logs["loss"], rel=1e-5)


@pytest.mark.parametrize("method", ["kd", "at", "fitnet"])
def test_two_replicas_train_to_the_weights_of_one_device(method):
    images, labels = tiny.batch(16)
    settings = {"batch_size": 8, "epochs": 2, "verbose": 0, "shuffle": False}

    def trained(scope):
        keras.utils.set_random_seed(3)
        with scope:
            teacher = teacher_of(method)
            student = tiny.student(batch_norm=False)
            model = FeatureTransfer(teacher, student, method)
            model.compile(keras.optimizers.SGD(0.1), loss=CROSS_ENTROPY)
        history = model.fit(images, labels, **settings).history
        return student.get_weights(), history["transfer_loss"]

    one, one_loss = trained(tf.distribute.get_strategy().scope())
    two, two_loss = trained(strategy(2).scope())
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert one_loss == pytest.approx(two_loss, rel=1e-4)


@pytest.mark.parametrize("method", ["ft", "overhaul"])
def test_training_resumed_from_a_file_equals_uninterrupted_training(
    method, tmp_path, eager
):
    images, labels = tiny.batch(16)
    settings = {"batch_size": 8, "verbose": 0, "shuffle": False}

    def new():
        keras.utils.set_random_seed(4)
        model = pair(method, weight=2.0)
        model.compile("adam", loss=CROSS_ENTROPY)
        return model

    uninterrupted = new()
    uninterrupted.fit(images, labels, epochs=2, **settings)
    interrupted = new()
    interrupted.fit(images, labels, epochs=1, **settings)
    interrupted.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")
    loaded.fit(images, labels, epochs=1, **settings)
    for a, b in zip(uninterrupted.student.weights, loaded.student.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=a.path)


@pytest.mark.parametrize("method", METHODS)
def test_training_in_mixed_float16(method, eager):
    keras.config.set_dtype_policy("mixed_float16")
    model = pair(method)
    model.compile("sgd", loss=CROSS_ENTROPY)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    logs = model.train_on_batch(*tiny.batch(), return_dict=True)
    assert np.isfinite(logs["loss"])
    assert all(v.dtype == "float32" for v in model.trainable_variables)


def test_teacher_preprocessing_is_applied():
    images, labels = tiny.batch()
    seen = []

    def flip(x):
        seen.append(tuple(x.shape))
        return x[..., ::-1]

    model = pair("at", teacher_preprocessing=flip)
    model.compile("sgd", loss=CROSS_ENTROPY)
    flipped = model.train_on_batch(images, labels, return_dict=True)["transfer_loss"]
    assert seen[-1] == images.shape
    plain = FeatureTransfer(model.teacher, tiny.student(), "at")
    plain.student.set_weights(model.student.get_weights())
    plain.compile("sgd", loss=CROSS_ENTROPY)
    straight = plain.train_on_batch(images, labels, return_dict=True)["transfer_loss"]
    assert flipped != pytest.approx(straight, rel=1e-3)


def test_dropout_of_the_teacher_is_off():
    x = image = keras.Input((32, 32, 3))
    for i in (1, 2, 3):
        x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name=f"conv{i}")(x)
        x = keras.layers.Dropout(0.5, name=f"out{i}")(x)
    model = FeatureTransfer(keras.Model(image, x), tiny.student(), "at")
    model.compile(keras.optimizers.SGD(0.0), loss=CROSS_ENTROPY)
    first, again = (model.train_on_batch(*tiny.batch(), return_dict=True) for _ in "12")
    assert first["transfer_loss"] == again["transfer_loss"]


def test_switch_points_select_the_compared_layers():
    model = FeatureTransfer(
        tiny.teacher(),
        tiny.student(),
        "overhaul",
        switch_points=[("out1", "out1"), ("out2", "out3")],
    )
    assert [c.adapter.channels for c in model.transfer_loss.connectors] == [6, 8]


@pytest.mark.parametrize("method", ["fitnet", "at", "overhaul"])
def test_a_detector_learns_from_a_classifier(method):
    keras.utils.set_random_seed(0)
    student = detectors.small()
    teacher = detectors.backbone(channels=(6, 10, 12))
    model = FeatureTransfer(teacher, student, method)
    model.compile(keras.optimizers.Adam(1e-3))
    images, truth = detectors.people()
    first = model.train_on_batch(images, truth, return_dict=True)
    for _ in range(10):
        last = model.train_on_batch(images, truth, return_dict=True)
    assert last["transfer_loss"] < first["transfer_loss"]


def test_kd_needs_comparable_outputs():
    with pytest.raises(ValueError, match="of the same classes"):
        FeatureTransfer(tiny.teacher(), tiny.student(), "kd")
    with pytest.raises(ValueError, match="without a `.head`"):
        FeatureTransfer(detectors.backbone(), detectors.small(), "kd")


@pytest.mark.parametrize("weight", [-1.0, float("nan"), "much", True])
def test_invalid_weights(weight):
    with pytest.raises(ValueError, match="`weight` must be"):
        pair("at", weight=weight)


def test_weight_can_be_a_numpy_number():
    model = pair("at", weight=np.float32(0.5))
    assert model.get_config()["weight"] == 0.5


def test_unknown_methods_are_rejected():
    with pytest.raises(ValueError, match="`method` must be one of kd, fitnet, at"):
        pair("magic")
