"""The recipe end to end on a few small images, and what it says when it cannot start."""

import dataclasses
import errno
import json
import os
import re

import keras
import numpy as np
import pytest
from PIL import Image

import tiny
from keras_hybrid.recipes import imagenet
from runs import config, shell


def test_trains_evaluates_and_ships(files, tmp_path):
    results = imagenet.main(config(files, tmp_path / "run", export="saved_model,tflite"))
    run = tmp_path / "run"
    assert json.loads((run / "results.json").read_text()) == results
    assert json.loads((run / "config.json").read_text())["epochs"] == 2
    assert (run / "saved_model" / "saved_model.pb").exists()
    assert 0 <= results["top1"] <= results["top5"] <= 100
    assert results["tflite_top1"] == results["top1"]
    assert results["tflite_bytes"] == (run / "student.tflite").stat().st_size
    student = keras.saving.load_model(run / "student.keras")
    before = keras.saving.load_model(files / "student.keras")
    assert not np.array_equal(student.get_weights()[0], before.get_weights()[0])
    with np.load(files / "data.npz") as data:
        right = student.predict(data["x_test"], verbose=0).argmax(-1) == data["y_test"]
    assert results["top1"] == pytest.approx(100 * right.mean(), abs=1e-3)
    log = (run / "metrics.csv").read_text().splitlines()
    assert len(log) == 3
    assert {"balance", "student_loss", "val_top1"} <= set(log[0].split(","))


def test_none_trains_the_student_alone(files, tmp_path):
    results = imagenet.main(config(files, tmp_path, method="none"))
    assert "balance" not in (tmp_path / "metrics.csv").read_text()
    assert results["method"] == "none"


@pytest.mark.parametrize("method", ["kd", "at"])
def test_a_rival_trains_the_student(method, files, tmp_path):
    tiny.student().save(tmp_path / "classifier.keras")
    settings = {"teacher": str(tmp_path / "classifier.keras"), "method": method}
    _, model, _ = imagenet.prepare(config(files, tmp_path, method_weight=0.5, **settings))
    assert (model.method, model.transfer_loss.weight) == (method, 0.5)
    results = imagenet.main(config(files, tmp_path / "run", **settings))
    assert results["method"] == method
    assert "transfer_loss" in (tmp_path / "run" / "metrics.csv").read_text()


def test_averages_of_a_student_from_scratch_follow_within_tens_of_steps(files, tmp_path):
    settings = config(files, tmp_path, student="MobileNet")
    student = imagenet.load_student(settings, imagenet.open_data(settings))
    norms = [x for x in student.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == 27
    assert {norm.momentum for norm in norms} == {0.9}


def test_mixed_precision(files, tmp_path):
    settings = {"student": "MobileNet", "mixed_precision": True, "epochs": 1}
    results = imagenet.main(config(files, tmp_path, **settings))
    student = keras.saving.load_model(tmp_path / "student.keras")
    assert student.get_layer("conv1").compute_dtype == "float16"
    assert results["top1"] >= 0


def test_a_loss_that_explodes_leaves_no_student(files, tmp_path):
    with pytest.raises(FloatingPointError, match="became infinite or NaN in epoch 1"):
        imagenet.main(config(files, tmp_path, learning_rate=1e30, epochs=3))
    assert not (tmp_path / "student.keras").exists()
    assert not (tmp_path / "results.json").exists()


def test_folder_with_a_corrupt_image(files, tmp_path):
    rng = np.random.default_rng(1)
    for split in ("train", "val"):
        for name in ("cat", "dog", "emu", "fox"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 255, (40, 50, 3)).astype("uint8")
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    broken = tmp_path / "data" / "train" / "dog" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    settings = {"data_dir": str(tmp_path / "data"), "student": str(any_size(tmp_path))}
    results = imagenet.main(config(files, tmp_path / "run", **settings))
    assert results["skipped_images"] == [str(broken)]


def any_size(folder):
    student = tiny.student(size=224)
    student.save(folder / "large.keras")
    return folder / "large.keras"


def test_learning_rate_is_the_papers():
    optimizer = imagenet.build_optimizer(imagenet.Config(), steps_per_epoch=10)
    rates = [float(optimizer._learning_rate(step)) for step in (0, 299, 301, 601)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_a_large_gradient_is_clipped():
    optimizer = imagenet.build_optimizer(imagenet.Config(weight_decay=0.0), 10)
    weights = [keras.Variable([0.0, 0.0]), keras.Variable([0.0])]
    optimizer.apply([np.array([30.0, 0.0]), np.array([40.0])], weights)
    # The norm is 50 and becomes 10; the rate is 0.1.
    np.testing.assert_allclose(weights[0].numpy(), [-0.6, 0.0], rtol=1e-5)
    np.testing.assert_allclose(weights[1].numpy(), [-0.8], rtol=1e-5)


MISTAKES = {
    "unknown flag": (["--epoch=3"], "epoch"),
    "unknown value": (["--method=magic"], "magic"),
    "no number": (["--epochs=many"], "many"),
    "negative": (["--epochs=-1"], "--epochs must be above 0. Received: --epochs=-1"),
    "balance": (["--balance=often"], "--balance must be"),
    "weight": (["--method_weight=2"], "--method_weight must be left out with"),
    "negative weight": (["--method=at", "--method_weight=-2"], "--method_weight must be"),
    "export": (["--export=onnx"], "--export must be"),
    "no data": (["--data_dir=/nowhere"], "Received: data_dir=/nowhere"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake, tmp_path):
    flags, message = MISTAKES[mistake]
    process = shell(*flags, cwd=tmp_path)
    _, stderr = process.communicate()
    assert process.returncode != 0
    assert message in stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


def mistaken(files, tmp_path, **changes):
    """What main says, and that it left nothing behind."""
    workdir = tmp_path / "run"
    with pytest.raises((ValueError, OSError)) as error:
        imagenet.main(config(files, workdir, **changes))
    assert not workdir.exists()
    return str(error.value)


def test_a_teacher_that_is_no_model(files, tmp_path):
    (tmp_path / "broken.keras").write_text("no model")
    message = mistaken(files, tmp_path, teacher=str(tmp_path / "broken.keras"))
    assert "--teacher must be a model saved as .keras" in message
    message = mistaken(files, tmp_path, teacher=str(tmp_path / "missing.keras"))
    assert "--teacher must be a file that exists" in message


def test_a_student_of_other_classes(files, tmp_path):
    tiny.student(classes=7).save(tmp_path / "seven.keras")
    message = mistaken(files, tmp_path, student=str(tmp_path / "seven.keras"))
    assert "--student must be a classifier of 4 classes" in message


def test_kd_needs_a_teacher_of_the_same_classes(files, tmp_path):
    assert "of the same classes" in mistaken(files, tmp_path, method="kd")


def test_kd_needs_a_teacher_that_knows_the_classes(files, tmp_path):
    settings = config(files, tmp_path, method="kd", teacher="VGG16")
    message = mistaken(files, tmp_path, method="kd", teacher="VGG16")
    assert "--teacher must be a .keras file of a network" in message
    assert message.endswith("Received: --teacher=VGG16")
    # The command that it names trains such a teacher.
    (command,) = re.findall("recipes.imagenet (.*), and", message)
    flags = dict(flag.removeprefix("--").split("=") for flag in command.split())
    assert flags["data_dir"] == settings.data_dir
    assert (flags["method"], flags["student"]) == ("none", "VGG16")
    student = imagenet.load_student(
        dataclasses.replace(settings, **flags), imagenet.open_data(settings)
    )
    assert student.output_shape == (None, 4)


def test_labels_out_of_range(files, tmp_path):
    with np.load(files / "data.npz") as data:
        arrays = dict(data)
    arrays["y_test"] = arrays["y_test"] + 1
    np.savez(tmp_path / "wrong.npz", **arrays)
    message = mistaken(files, tmp_path, data_dir=str(tmp_path / "wrong.npz"))
    assert "y_test[3]=4" in message


def test_a_batch_larger_than_the_data(files, tmp_path):
    assert "--batch_size must be" in mistaken(files, tmp_path, batch_size=25)


def test_a_workdir_that_is_a_file(files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="--workdir must be a directory"):
        imagenet.main(config(files, tmp_path / "file" / "run"))


def test_a_workdir_that_cannot_be_written(files, tmp_path, monkeypatch):
    # Permissions do not stop root, and a read-only disk is not at hand.
    def mkdir(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "mkdir", mkdir)
    message = mistaken(files, tmp_path)
    assert "--workdir must be writable. Received: --workdir=" in message
    assert "Permission denied" in message
