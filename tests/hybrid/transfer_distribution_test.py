"""Training on two replicas ends at the weights of one device: alpha is global."""

import keras
import numpy as np
import pytest

import tiny
from keras_hybrid import HybridTransfer
from keras_hybrid.baselines import FitNet
from replicas import strategy


def train(replicas, *, batch_norm=False, options=None, steps=5, **fit_args):
    with strategy(replicas).scope():
        keras.utils.set_random_seed(3)
        student = tiny.student(batch_norm=batch_norm)
        model = HybridTransfer(tiny.teacher(), student, **(options or {}))
        model.compile(
            keras.optimizers.SGD(0.3, momentum=0.9),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
    images, labels = tiny.batch(8 * steps)
    # The halves of a batch differ in scale, so alpha per replica would differ as well.
    images = (
        images * np.where(np.arange(len(images)) % 8 < 4, 0.2, 3.0)[:, None, None, None]
    )
    steps_seen = []
    log = keras.callbacks.LambdaCallback(
        on_batch_end=lambda batch, logs: steps_seen.append(logs)
    )
    fit_args = {"shuffle": False, "batch_size": 8, "verbose": 0, **fit_args}
    model.fit(images.astype("float32"), labels, callbacks=[log], **fit_args)
    return model, steps_seen


@pytest.mark.parametrize(
    "options", [{}, {"balance": 0.5}, {"paths_per_step": 1}, {"plus": FitNet}]
)
def test_two_replicas_equal_one_device(options):
    (one, one_logs), (two, two_logs) = (
        train(n, options={k: v() if k == "plus" else v for k, v in options.items()})
        for n in (1, 2)
    )
    assert two.distribute_strategy.num_replicas_in_sync == 2
    assert len(two_logs) == 5
    for weight, other in zip(one.student.weights, two.student.weights):
        np.testing.assert_allclose(weight.numpy(), other.numpy(), atol=1e-5)
    for a, b in zip(one_logs, two_logs):
        for name in ("balance", "loss", "student_loss", "student_first_loss"):
            assert a[name] == pytest.approx(b[name], abs=1e-5), name


def test_synchronized_batch_normalization_on_two_replicas():
    with strategy(2).scope():
        image = keras.Input((32, 32, 3))
        x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(image)
        x = keras.layers.BatchNormalization(synchronized=True, name="norm")(x)
        x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        student = keras.Model(image, keras.layers.Dense(4)(x))
        model = HybridTransfer(tiny.teacher(), student)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss)
        one_path = HybridTransfer(tiny.teacher(), student, paths_per_step=1)
        with pytest.raises(ValueError, match="`paths_per_step` must be 2 .*'norm'"):
            one_path.compile("sgd", loss)
    assert np.isfinite(model.fit(*tiny.batch(8), verbose=0).history["loss"])


def test_two_replicas_equal_one_device_with_sample_weights():
    weights = np.linspace(0.1, 2, 40)
    (one, _), (two, _) = (train(n, sample_weight=weights) for n in (1, 2))
    for weight, other in zip(one.student.weights, two.student.weights):
        np.testing.assert_allclose(weight.numpy(), other.numpy(), atol=1e-5)


def test_moving_averages_equal_those_of_the_student_alone():
    """After a fit of the student alone under the same strategy."""
    images, labels = tiny.batch(16)
    students = []
    for hybrid in (False, True):
        with strategy(2).scope():
            keras.utils.set_random_seed(3)
            student = tiny.student()
            model = HybridTransfer(tiny.teacher(), student) if hybrid else student
            model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
        model.fit(images, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
        students.append(student)
    for plain, hybrid in zip(*(student.weights for student in students)):
        np.testing.assert_allclose(plain.numpy(), hybrid.numpy(), atol=1e-6)
    assert np.abs(students[0].get_layer("bn1").moving_mean).max() > 1e-4


def test_evaluate_on_two_replicas_equals_one_device():
    (one, _), (two, _) = train(1), train(2)
    images, labels = tiny.batch(11)  # the replicas get two and one of the last batch
    arguments = {"batch_size": 8, "verbose": 0, "return_dict": True}
    expected = one.evaluate(images, labels, **arguments)
    received = two.evaluate(images, labels, **arguments)
    assert received == pytest.approx(expected, abs=1e-5)
