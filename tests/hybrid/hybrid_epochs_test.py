"""Hybrid paths in the first epochs only: `callbacks.HybridEpochs`."""

import keras
import numpy as np
import pytest
from counting import with_counting

import tiny
from keras_hybrid import HybridTransfer
from keras_hybrid.callbacks import HybridEpochs, TransferCurves, read_rows
from replicas import strategy

FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}


def transfer(**options):
    keras.utils.set_random_seed(3)
    model = HybridTransfer(tiny.teacher(), tiny.student(batch_norm=False), **options)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.5),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


@pytest.mark.parametrize(
    ("replicas", "options"),
    [(2, {}), (1, {"paths_per_step": 1, "track_paths": True})],
)
def test_afterwards_the_student_trains_as_by_itself(replicas, options):
    """On one device, with the momentum that it has from the hybrid epochs."""
    images, labels = tiny.batch(16)
    with strategy(replicas).scope():
        model = transfer(**options)
    other = transfer(**options)
    history = model.fit(images, labels, epochs=4, callbacks=[HybridEpochs(2)], **FIT)
    other.fit(images, labels, epochs=2, **FIT)
    alone = other.student
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.5)
    alone.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    optimizer.build(alone.trainable_variables)
    slots = {m.path.partition("/")[2]: m for m in other.optimizer.momentums}
    for slot in optimizer.momentums:
        slot.assign(slots[slot.path.partition("/")[2]].numpy())
    expected = alone.fit(images, labels, epochs=2, **FIT).history
    for name in ("loss", "accuracy"):
        assert history.history[name][2:] == pytest.approx(expected[name], rel=1e-4)
    for weight, value in zip(model.student.weights, alone.weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), value.numpy(), atol=1e-5)
    assert model.hybrid


@pytest.mark.parametrize("eager", [False, True])
def test_the_teacher_is_not_computed_afterwards(eager):
    teacher, counting = with_counting(tiny.teacher(), "conv1")
    model = HybridTransfer(teacher, tiny.student())
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=eager)
    images, labels = tiny.batch(16)
    model.fit(images, labels, epochs=3, callbacks=[HybridEpochs(1)], **FIT)
    assert counting.count == 2  # teacher-first in each of two steps


def test_an_optimizer_for_each_part_of_the_student():
    """It takes the gradients of all variables at once."""
    sgd, adam = keras.optimizers.SGD(0.1, momentum=0.9), keras.optimizers.Adam()
    by_name = keras.optimizers.OptimizerMap(sgd, {"classifier/.*": adam})
    model = HybridTransfer(tiny.teacher(), tiny.student())
    model.compile(
        keras.optimizers.MultiOptimizer(by_name), "sparse_categorical_crossentropy"
    )
    classifier = model.student.get_layer("classifier").kernel
    before = classifier.numpy()
    model.fit(*tiny.batch(), epochs=2, callbacks=[HybridEpochs(0)], **FIT)
    assert not np.array_equal(classifier.numpy(), before)


def test_logs_of_the_paths_end_with_them(tmp_path, eager):
    images, labels = tiny.batch(16)
    model = transfer(track_paths=True)
    callbacks = [HybridEpochs(1), TransferCurves(tmp_path)]
    history = model.fit(images, labels, epochs=2, callbacks=callbacks, **FIT).history
    for name in ("balance", "student_first_loss", "teacher_first_accuracy"):
        assert len(history[name]) == 1
    assert len(history["student_loss"]) == len(history["accuracy"]) == 2
    first, second = read_rows(tmp_path / "metrics.csv")
    assert "balance" in first
    assert set(second) == {"epoch", "seconds", "accuracy", "loss", "student_loss"}
    assert second["loss"] == pytest.approx(second["student_loss"])


def test_training_resumed_after_the_hybrid_epochs_equals_uninterrupted(tmp_path):
    images, labels = tiny.batch(8)
    model = transfer()
    model.fit(images, labels, epochs=3, callbacks=[HybridEpochs(2)], **FIT)
    model.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")
    for each in (model, loaded):
        fit = {**FIT, "initial_epoch": 3, "callbacks": [HybridEpochs(2)]}
        history = each.fit(images, labels, epochs=5, **fit).history
        assert "balance" not in history
    for a, b in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


def interrupt(epoch, logs):
    if epoch == 1:
        raise KeyboardInterrupt


@pytest.mark.parametrize("hybrid", [True, False])
def test_hybrid_paths_are_as_before_after_a_fit_that_was_interrupted(hybrid, eager):
    model = transfer()
    model.hybrid = hybrid
    ends = keras.callbacks.LambdaCallback(on_epoch_end=interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*tiny.batch(), epochs=3, verbose=0, callbacks=[HybridEpochs(1), ends])
    assert model.hybrid == hybrid


def test_integers_of_numpy():
    assert HybridEpochs(np.int64(3)).epochs == 3


@pytest.mark.parametrize("epochs", [-1, 1.5, "2", None])
def test_other_numbers_of_epochs_are_refused(epochs):
    with pytest.raises(ValueError, match="`epochs` must be an integer of at least 0. Re"):
        HybridEpochs(epochs)


def test_other_models_are_refused():
    student = tiny.student()
    student.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(TypeError, match="is for a HybridTransfer. Received: model="):
        student.fit(*tiny.batch(8), callbacks=[HybridEpochs(1)], **FIT)
