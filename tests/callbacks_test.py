"""Files that `TransferCurves` writes during `fit` and resumed training."""

import csv
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tiny
from keras_hybrid import HybridTransfer, callbacks

pytestmark = pytest.mark.usefixtures("eager")


def fit(directory, epochs, initial_epoch=0, hybrid=True, **settings):
    student = tiny.student()
    model = HybridTransfer(tiny.teacher(), student, **settings) if hybrid else student
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    images, labels = tiny.batch(8)
    return model.fit(
        images,
        labels,
        epochs=epochs,
        initial_epoch=initial_epoch,
        validation_data=(images, labels),
        verbose=0,
        callbacks=[callbacks.TransferCurves(directory)],
    )


def events(directory):
    """(step, tag, value) of all event files, oldest first."""
    found = []
    for path in sorted(directory.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    return found


def test_transfer_curves_writes_csv_events_and_a_plot(tmp_path):
    history = fit(tmp_path / "new" / "run", epochs=2)
    run = tmp_path / "new" / "run"
    with open(run / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert 0 < float(rows[0]["seconds"]) < float(rows[1]["seconds"])
    for name, values in history.history.items():
        np.testing.assert_allclose([float(row[name]) for row in rows], values)
        logged = [value for _, tag, value in events(run) if tag == name]
        np.testing.assert_allclose(logged, values, rtol=1e-6)
    assert {"balance", "student_first_loss", "val_accuracy"} < set(rows[0])
    with Image.open(run / "curves.png") as image:
        assert image.format == "PNG"
    assert not list(run.glob(".*"))


@pytest.mark.parametrize(("seconds", "plotted_epochs"), [(4, [3, 4]), (0, [4])])
def test_curves_are_plotted_every_ten_seconds(
    seconds, plotted_epochs, tmp_path, monkeypatch
):
    plotted, clock = [], types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(callbacks, "plot", lambda rows, _: plotted.append(len(rows)))
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.time, "monotonic", lambda: clock.now)
        curves = callbacks.TransferCurves(tmp_path)
        for epoch in range(4):
            curves.on_epoch_begin(epoch)
            clock.now += seconds
            curves.on_epoch_end(epoch, {"loss": 1.0})
        curves.on_train_end()
    assert plotted == plotted_epochs


def test_resumed_training_keeps_the_rows_of_earlier_epochs(tmp_path):
    fit(tmp_path, epochs=3, hybrid=False)
    first = callbacks.read_rows(tmp_path / "metrics.csv")
    fit(tmp_path, epochs=4, initial_epoch=2, hybrid=False)
    rows = callbacks.read_rows(tmp_path / "metrics.csv")
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert rows[:2] == first[:2]
    assert rows[2]["seconds"] > first[1]["seconds"]
    fit(tmp_path, epochs=1, hybrid=False)
    assert len(callbacks.read_rows(tmp_path / "metrics.csv")) == 1


def test_resumed_training_overrides_later_steps_in_tensorboard(tmp_path):
    """A session log at the first step of each file tells TensorBoard to do so."""
    fit(tmp_path, epochs=3, hybrid=False)
    fit(tmp_path, epochs=3, initial_epoch=1, hybrid=False)
    starts = []
    for path in sorted(tmp_path.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            if event.session_log.status == tf.compat.v1.SessionLog.START:
                starts.append(event.step)
    assert starts == [0, 1]


def panels(tmp_path, **settings):
    names = fit(tmp_path, epochs=1, **settings).history
    return callbacks._panels(list(names))


def test_panels_of_a_hybrid_transfer(tmp_path):
    assert panels(tmp_path, track_paths=True) == {
        "loss": {
            "plain": "student_loss",
            "student_first": "student_first_loss",
            "teacher_first": "teacher_first_loss",
            "validation": "val_loss",
        },
        "alpha": {"plain": "balance"},
        "accuracy": {
            "plain": "accuracy",
            "student_first": "student_first_accuracy",
            "teacher_first": "teacher_first_accuracy",
            "validation": "val_accuracy",
        },
    }


def test_panels_of_several_teachers(tmp_path):
    names = [f"{kind}_first_{i}_loss" for i in (1, 2) for kind in ("student", "teacher")]
    found = callbacks._panels(["epoch", "loss", "student_loss", *names, "balance"])
    curves = {name.removesuffix("_loss"): name for name in names}
    assert found["loss"] == {"plain": "student_loss", **curves}
    callbacks.plot(
        [{"epoch": 0, "balance": 1.0, "student_loss": 1.0, **dict.fromkeys(names, 2.0)}],
        tmp_path / "curves.png",
    )
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_panels_of_a_student_alone(tmp_path):
    assert panels(tmp_path, hybrid=False) == {
        "loss": {"plain": "loss", "validation": "val_loss"},
        "accuracy": {"plain": "accuracy", "validation": "val_accuracy"},
    }


def test_panels_of_a_baseline():
    """Training and validation show the same loss, that of the task."""
    names = "epoch", "seconds", "loss", "student_loss", "transfer_loss", "val_loss"
    assert callbacks._panels(names) == {
        "loss": {"plain": "student_loss", "validation": "val_loss"},
        "transfer_loss": {"plain": "transfer_loss"},
    }


def test_curves_with_nan_are_plotted(tmp_path):
    rows = [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": float("nan")}]
    callbacks.plot(rows, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


def test_a_metric_with_a_value_for_each_class_is_left_out(tmp_path):
    model = tiny.student()
    f1 = keras.metrics.F1Score(name="f1")  # of each class
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy", f1])
    images, labels = tiny.batch(8)
    curves = callbacks.TransferCurves(tmp_path)
    model.fit(images, np.eye(4)[labels], callbacks=[curves], verbose=0)
    (row,) = callbacks.read_rows(tmp_path / "metrics.csv")
    assert row.keys() == {"epoch", "seconds", "accuracy", "loss"}


def test_a_fit_without_epochs_writes_nothing(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    curves = callbacks.TransferCurves(tmp_path / "run")
    model.fit(np.zeros((2, 2)), np.zeros(2), epochs=0, callbacks=[curves], verbose=0)
    assert not (tmp_path / "run").exists()
