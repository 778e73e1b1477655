"""A run that was ended early goes on, and ends as if nothing had been."""

import functools
import resource
import signal
import sys
import time
import types

import keras
import numpy as np
import pytest

import tiny
from keras_hybrid.callbacks import read_rows
from keras_hybrid.recipes import imagenet
from keras_hybrid.recipes.engine import recipe, run, workdir
from keras_hybrid.recipes.engine import shell as shell_lib
from runs import config, flags, shell, tf_configs


def saved_student(folder, hidden, rate, policy="float32"):
    """A student with a hidden layer and dropout, in a file."""
    keras.config.set_dtype_policy(policy)
    student = tiny.student()
    x = keras.layers.Dense(hidden)(student.get_layer("pool").output)
    x = keras.layers.Dropout(rate)(x)
    outputs = keras.layers.Dense(4, activation="softmax", dtype="float32")(x)
    keras.Model(student.input, outputs).save(folder / f"{hidden}.keras")
    return str(folder / f"{hidden}.keras")


@pytest.fixture
def end_in_epoch(monkeypatch):
    """`end_in_epoch(n)`: a run ends where epoch n, from 0, is done but not saved."""

    def end(epoch):
        saved = run.Checkpoints.on_epoch_end

        def on_epoch_end(checkpoints, this_epoch, logs=None):
            if this_epoch == epoch:
                monkeypatch.setattr(run.Checkpoints, "on_epoch_end", saved)
                raise KeyboardInterrupt
            saved(checkpoints, this_epoch, logs)

        monkeypatch.setattr(run.Checkpoints, "on_epoch_end", on_epoch_end)

    return end


def outcome(workdir):
    """Weights of the student, and the curves but for the seconds."""
    rows = read_rows(workdir / "metrics.csv")
    weights = keras.saving.load_model(workdir / "student.keras").get_weights()
    return weights, [{**row, "seconds": 0} for row in rows]


def assert_same_outcome(one, other):
    (weights, rows), (other_weights, other_rows) = outcome(one), outcome(other)
    for weight, other_weight in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(weight, other_weight, atol=1e-6)
    for row, other_row in zip(rows, other_rows, strict=True):
        assert row == pytest.approx(other_row, abs=1e-6)


@pytest.mark.parametrize("method", ["hybrid", "none", "kd"])
def test_ends_with_the_weights_of_a_run_never_ended(
    method, files, tmp_path, end_in_epoch, request
):
    if method != "hybrid":
        request.getfixturevalue("eager")
    # The random state of dropout is part of where a run is.
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
        keras.utils.set_random_seed(99)  # another process starts with another state
    rows = len(read_rows(tmp_path / "ended" / "metrics.csv"))
    assert rows == 3  # that of the epoch that no checkpoint has among them
    imagenet.main(config(files, tmp_path / "ended", **settings))
    assert_same_outcome(tmp_path / "alone", tmp_path / "ended")


def test_in_mixed_precision(files, tmp_path, end_in_epoch, eager):
    student = saved_student(tmp_path, hidden=7, rate=0.3, policy="mixed_float16")
    settings = {"student": student, "mixed_precision": True}
    imagenet.main(config(files, tmp_path / "alone", **settings))
    end_in_epoch(1)
    with pytest.raises(KeyboardInterrupt):
        imagenet.main(config(files, tmp_path / "ended", **settings))
    imagenet.main(config(files, tmp_path / "ended", **settings))
    assert_same_outcome(tmp_path / "alone", tmp_path / "ended")


def test_ended_after_the_last_epoch_and_moved(files, tmp_path, monkeypatch, eager):
    with monkeypatch.context() as patch:
        patch.setattr(workdir, "save_model", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            imagenet.main(config(files, tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "there" / "curves.png").unlink()  # as if killed before
    monkeypatch.setattr(run, "TransferCurves", None)  # nothing is left to train
    results = imagenet.main(config(files, f"{tmp_path}/there/"))
    assert results["training_seconds"] > 0
    assert len(read_rows(tmp_path / "there" / "metrics.csv")) == 2
    assert (tmp_path / "there" / "curves.png").exists()


def test_a_finished_run_is_not_run_again(files, tmp_path, monkeypatch, eager):
    results = imagenet.main(config(files, tmp_path))
    monkeypatch.setattr(recipe.Recipe, "prepare", None)
    assert imagenet.main(config(files, tmp_path)) == results


def test_a_workdir_of_other_flags_is_refused(files, tmp_path, end_in_epoch, eager):
    end_in_epoch(1)
    with pytest.raises(KeyboardInterrupt):
        imagenet.main(config(files, tmp_path))
    message = "--seed=0 there and 1 now"
    with pytest.raises(ValueError, match=message):
        imagenet.main(config(files, tmp_path, seed=1))
    imagenet.main(config(files, tmp_path))
    with pytest.raises(ValueError, match=message):
        imagenet.main(config(files, tmp_path, seed=1))


def test_what_a_killed_process_left_is_deleted(files, tmp_path, eager):
    (tmp_path / ".unfinished-abc").mkdir()
    (tmp_path / "checkpoints" / "epoch-1_temp").mkdir(parents=True)
    (tmp_path / "checkpoints" / "epoch-1.index.tempstate7").write_text("")
    workdir.write_json(tmp_path / "config.json", {**config(files, tmp_path).__dict__})
    imagenet.main(config(files, tmp_path))
    assert not list(tmp_path.glob(".*"))
    kept = {path.name.split(".")[0] for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"checkpoint", "epoch-2"}


def test_ctrl_c_says_how_to_go_on(files, tmp_path):
    settings = config(files, tmp_path / "run", epochs=100_000)
    # A shell that runs the tests in the background has them, and so it, ignore Ctrl-C.
    hears = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = shell(*flags(settings), cwd=tmp_path, preexec_fn=hears)
    while not list(tmp_path.glob("run/checkpoints/epoch-*.index")):
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Interrupted. The same command resumes from the last checkpoint" in stderr
    assert "Traceback" not in stderr


def test_ctrl_c_in_a_finalizer(tmp_path, monkeypatch):
    """Python drops what is raised there."""

    class Finalized:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def work():
        Finalized()
        time.sleep(60)

    ends = types.SimpleNamespace(config=imagenet.Config, start=lambda config: work)
    monkeypatch.setattr(sys, "argv", ["recipe", f"--workdir={tmp_path}"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as end:
            shell_lib.run(ends)
    finally:
        signal.signal(signal.SIGINT, before)
    assert end.value.code == 130


def test_a_full_disk_says_how_to_go_on(files, tmp_path, end_in_epoch, eager):
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
    assert_same_outcome(tmp_path / "alone", tmp_path / "ended")


def test_a_machine_that_is_killed(files, tmp_path):
    """The other says so; started again, both end as one device alone does.

    With this balance the gradient is long enough for the recipe to clip it; the rate is
    low, so that differences in rounding do not grow.
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
    imagenet.main(alone)  # while the first one waits for it
    _, stderr = first.communicate()
    assert first.returncode == 1
    assert "Another machine in TF_CONFIG is gone. Restart all of them." in stderr
    assert "Traceback" not in stderr
    second.communicate()
    for process in start():
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
    assert "Resuming after epoch" in stderr
    weights, others = (outcome(tmp_path / run)[0] for run in ("alone", "two"))
    for weight, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)
