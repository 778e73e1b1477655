"""Resuming of interrupted runs."""

import functools
import re
import resource
import shutil
import signal
import sys
import time
import types

import keras
import numpy as np
import pytest

import tiny
import trees
from keras_hybrid.callbacks import read_rows
from keras_hybrid.recipes import imagenet
from keras_hybrid.recipes.engine import recipe, run, workdir
from keras_hybrid.recipes.engine import shell as shell_lib
from runs import config, flags, shell, tf_configs


def saved_student(folder, hidden, rate, policy="float32"):
    """Path of a saved student with a hidden layer and dropout."""
    keras.config.set_dtype_policy(policy)
    student = tiny.student()
    x = keras.layers.Dense(hidden)(student.get_layer("pool").output)
    x = keras.layers.Dropout(rate)(x)
    outputs = keras.layers.Dense(4, activation="softmax", dtype="float32")(x)
    keras.Model(student.input, outputs).save(folder / f"{hidden}.keras")
    return str(folder / f"{hidden}.keras")


@pytest.fixture
def end_in_epoch(monkeypatch):
    """A function that interrupts a run after epoch n, from 0, before it is saved."""

    def end(epoch):
        saved = run.Checkpoints.on_epoch_end

        def on_epoch_end(checkpoints, this_epoch, logs=None):
            if this_epoch == epoch:
                monkeypatch.setattr(run.Checkpoints, "on_epoch_end", saved)
                raise KeyboardInterrupt
            saved(checkpoints, this_epoch, logs)

        monkeypatch.setattr(run.Checkpoints, "on_epoch_end", on_epoch_end)

    return end


def weights_and_curves(workdir):
    """Weights of the student and the curves, with seconds set to 0."""
    rows = read_rows(workdir / "metrics.csv")
    weights = keras.saving.load_model(workdir / "student.keras").get_weights()
    return weights, [{**row, "seconds": 0} for row in rows]


def assert_same_weights_and_curves(one, other):
    (weights, rows), (other_weights, other_rows) = (
        weights_and_curves(one),
        weights_and_curves(other),
    )
    for weight, other_weight in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(weight, other_weight, atol=1e-6)
    for row, other_row in zip(rows, other_rows, strict=True):
        assert row == pytest.approx(other_row, abs=1e-6)


@pytest.mark.parametrize("method", ["hybrid", "none", "kd"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_run(
    method, files, tmp_path, end_in_epoch, request
):
    if method != "hybrid":
        request.getfixturevalue("eager")
    # With dropout, the state of its random generator must be restored as well.
    student = saved_student(tmp_path, hidden=6, rate=0.3)
    settings = {"student": student, "method": method, "epochs": 4}
    if method == "kd":
        tiny.student().save(tmp_path / "teacher.keras")
        settings["teacher"] = str(tmp_path / "teacher.keras")
    imagenet.main(config(files, tmp_path / "alone", **settings))
    for epoch in (0, 2):
        end_in_epoch(epoch)
        with pytest.raises(KeyboardInterrupt):
            imagenet.main(config(files, tmp_path / "ended", **settings))
        keras.utils.set_random_seed(99)  # another process has another random state
    rows = len(read_rows(tmp_path / "ended" / "metrics.csv"))
    assert rows == 3  # includes the epoch that is not in a checkpoint
    imagenet.main(config(files, tmp_path / "ended", **settings))
    assert_same_weights_and_curves(tmp_path / "alone", tmp_path / "ended")


def test_a_run_in_mixed_precision_resumes(files, tmp_path, end_in_epoch, eager):
    student = saved_student(tmp_path, hidden=7, rate=0.3, policy="mixed_float16")
    settings = {"student": student, "mixed_precision": True}
    imagenet.main(config(files, tmp_path / "alone", **settings))
    end_in_epoch(1)
    with pytest.raises(KeyboardInterrupt):
        imagenet.main(config(files, tmp_path / "ended", **settings))
    imagenet.main(config(files, tmp_path / "ended", **settings))
    assert_same_weights_and_curves(tmp_path / "alone", tmp_path / "ended")


def test_a_run_interrupted_after_its_last_epoch_resumes_where_it_was_moved(
    files, tmp_path, monkeypatch, eager
):
    with monkeypatch.context() as patch:
        patch.setattr(workdir, "save_model", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            imagenet.main(config(files, tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "there" / "curves.png").unlink()  # as if killed before it was written
    monkeypatch.setattr(run, "TransferCurves", None)  # nothing is left to train
    results = imagenet.main(config(files, f"{tmp_path}/there/"))
    assert results["training_seconds"] > 0
    assert len(read_rows(tmp_path / "there" / "metrics.csv")) == 2
    assert (tmp_path / "there" / "curves.png").exists()


def test_a_finished_run_returns_its_results_without_training(
    files, tmp_path, monkeypatch, eager
):
    results = imagenet.main(config(files, tmp_path))
    monkeypatch.setattr(recipe.Recipe, "prepare", None)
    assert imagenet.main(config(files, tmp_path)) == results


def test_a_workdir_with_other_flags_is_rejected(files, tmp_path, end_in_epoch, eager):
    end_in_epoch(1)
    with pytest.raises(KeyboardInterrupt):
        imagenet.main(config(files, tmp_path))
    message = "--seed=0 there and 1 now"
    with pytest.raises(ValueError, match=message):
        imagenet.main(config(files, tmp_path, seed=1))
    imagenet.main(config(files, tmp_path))
    with pytest.raises(ValueError, match=message):
        imagenet.main(config(files, tmp_path, seed=1))


def test_a_teacher_of_other_channels_at_resuming_is_one_line(
    files, tmp_path, end_in_epoch, eager
):
    settings = {"teacher": str(tmp_path / "teacher.keras")}
    tiny.teacher().save(settings["teacher"])
    end_in_epoch(1)
    with pytest.raises(KeyboardInterrupt):
        imagenet.main(config(files, tmp_path / "run", **settings))
    tiny.teacher(channels=(6, 8, 11)).save(settings["teacher"])
    with pytest.raises(
        ValueError, match="has the file of --teacher or --student changed"
    ):
        imagenet.main(config(files, tmp_path / "run", **settings))


def test_temporary_files_of_a_killed_process_are_deleted(files, tmp_path, eager):
    (tmp_path / ".unfinished-abc").mkdir()
    (tmp_path / "checkpoints" / "epoch-1_temp").mkdir(parents=True)
    (tmp_path / "checkpoints" / "epoch-1.index.tempstate7").write_text("")
    workdir.write_json(tmp_path / "config.json", {**config(files, tmp_path).__dict__})
    imagenet.main(config(files, tmp_path))
    assert not list(tmp_path.glob(".*"))
    kept = {path.name.split(".")[0] for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"checkpoint", "epoch-2"}


def test_ctrl_c_explains_how_to_resume(files, tmp_path):
    settings = config(files, tmp_path / "run", epochs=100_000)
    # Processes started by a background shell ignore Ctrl-C, so restore the default.
    accept_sigint = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = shell(*flags(settings), cwd=tmp_path, preexec_fn=accept_sigint)
    while not list(tmp_path.glob("run/checkpoints/epoch-*.index")):
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Interrupted. The same command resumes after the last finished epoch" in stderr
    assert "Traceback" not in stderr


def interrupted_in_a_finalizer():
    """Python discards the exception."""

    class Finalized:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    Finalized()
    time.sleep(60)


def interrupted_in_a_device_scope():
    """TensorFlow replaces the exception if the scope was about to be left."""
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        raise RuntimeError("Exiting device scope without proper scope nesting")


@pytest.mark.parametrize(
    "work", [interrupted_in_a_finalizer, interrupted_in_a_device_scope]
)
def test_ctrl_c_ends_the_run_wherever_it_arrives(work, tmp_path, monkeypatch):
    fake_recipe = types.SimpleNamespace(config=imagenet.Config, start=lambda config: work)
    monkeypatch.setattr(sys, "argv", ["recipe", f"--workdir={tmp_path}"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as end:
            shell_lib.run(fake_recipe)
    finally:
        signal.signal(signal.SIGINT, before)
    assert end.value.code == 130


def test_a_full_disk_explains_how_to_resume(files, tmp_path, end_in_epoch, eager):
    student = saved_student(tmp_path, hidden=9000, rate=0.0)
    settings = config(files, tmp_path / "ended", student=student)
    imagenet.main(config(files, tmp_path / "alone", student=student))
    end_in_epoch(1)
    with pytest.raises(KeyboardInterrupt):
        imagenet.main(settings)

    def limit():  # the plots fit, a checkpoint does not
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    process = shell(*flags(settings), cwd=tmp_path, preexec_fn=limit)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert "The disk is full. Make room on it. The same command resumes" in stderr
    assert "Traceback" not in stderr
    imagenet.main(settings)
    assert_same_weights_and_curves(tmp_path / "alone", tmp_path / "ended")


def test_too_many_unreadable_images_end_a_run_in_one_line(files, tmp_path, monkeypatch):
    paths = [tmp_path / f"data/train/{i % 4}/{i}.png" for i in range(16)]
    for path in paths:
        trees.save(path, np.zeros((8, 8, 3), "uint8"))
    shutil.copytree(tmp_path / "data/train", tmp_path / "data/val")
    for path in paths[4:]:
        path.write_bytes(b"no image")
    tiny.student(size=224).save(tmp_path / "student.keras")
    settings = config(
        files,
        tmp_path / "run",
        data_dir=str(tmp_path / "data"),
        student=str(tmp_path / "student.keras"),
        teacher="",
        method="none",
    )
    monkeypatch.setattr(sys, "argv", ["recipe", *flags(settings)])
    with pytest.raises(SystemExit) as end:
        shell_lib.run(imagenet.RECIPE)
    assert re.fullmatch(
        r"More than half of the 16 images cannot be read, such as \S+\.png\. Are they "
        r"JPEG, .* The same command resumes after the last finished epoch, .*/run\.",
        end.value.code,
    )


def test_two_machines_resume_after_one_is_killed(files, tmp_path):
    """The other one reports it; after a restart, both end with the weights of one device.

    With this balance, the gradient is large enough for the recipe to clip it. The
    learning rate is low, so that rounding differences do not grow.
    """
    tiny.student(batch_norm=False).save(tmp_path / "student.keras")
    student = str(tmp_path / "student.keras")
    settings = {"student": student, "epochs": 6, "balance": "10", "learning_rate": 0.01}
    alone = config(files, tmp_path / "alone", **settings)
    settings = config(files, tmp_path / "two", strategy="multi_worker", **settings)

    def start():
        return [
            shell(*flags(settings), cwd=tmp_path, environment={"TF_CONFIG": tf_config})
            for tf_config in tf_configs()
        ]

    first, second = start()
    while not list(tmp_path.glob("two/checkpoints/epoch-*.index")):
        assert first.poll() is None
        time.sleep(0.1)
    second.kill()
    imagenet.main(alone)  # while the first machine waits for the second
    _, stderr = first.communicate()
    assert first.returncode == 1
    assert "Another machine in TF_CONFIG is gone. Restart all of them." in stderr
    assert "Traceback" not in stderr
    second.communicate()
    for process in start():
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
    assert "Resuming after epoch" in stderr
    weights, others = (weights_and_curves(tmp_path / run)[0] for run in ("alone", "two"))
    for weight, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)
