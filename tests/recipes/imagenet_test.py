"""The classification recipe on a few small images, and its error messages."""

import dataclasses
import errno
import functools
import json
import os
import re
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

import keras_hybrid
import mistakes_process
import tiny
import token_networks
import torch_weights
from keras_hybrid import applications, baselines
from keras_hybrid.callbacks import read_rows
from keras_hybrid.recipes import imagenet
from keras_hybrid.recipes.engine import settings as settings_lib
from keras_hybrid.recipes.engine import students, workdir
from runs import PATH, config


def test_recipe_trains_evaluates_and_exports(files, tmp_path):
    results = imagenet.main(config(files, tmp_path / "run", export="saved_model,tflite"))
    run = tmp_path / "run"
    assert json.loads((run / "results.json").read_text()) == results
    assert json.loads((run / "config.json").read_text())["epochs"] == 2
    assert (run / "saved_model" / "saved_model.pb").exists()
    assert results["class_names"] == ["0", "1", "2", "3"]
    assert (run / "labels.txt").read_text() == "0\n1\n2\n3\n"
    with zipfile.ZipFile(run / "student.tflite") as archive:
        assert archive.read("labels.txt") == b"0\n1\n2\n3\n"
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


def test_method_none_trains_the_student_alone(files, tmp_path):
    results = imagenet.main(config(files, tmp_path, method="none"))
    assert "balance" not in (tmp_path / "metrics.csv").read_text()
    assert results["method"] == "none"


@pytest.mark.parametrize("method", ["kd", "at"])
def test_a_baseline_trains_the_student(method, files, tmp_path, eager):
    tiny.student().save(tmp_path / "classifier.keras")
    settings = {"teacher": str(tmp_path / "classifier.keras"), "method": method}
    _, model, _ = imagenet.prepare(config(files, tmp_path, method_weight=0.5, **settings))
    assert (model.method, model.transfer_loss.weight) == (method, 0.5)
    results = imagenet.main(config(files, tmp_path / "run", **settings))
    assert results["method"] == method
    assert "transfer_loss" in (tmp_path / "run" / "metrics.csv").read_text()


def test_a_baseline_is_added_to_hybrid_forward_alone():
    """Of several methods."""
    settings = {"plus": "at", "plus_weight": 0.5, "teacher": "a.keras"}
    settings |= {"paths_per_step": 1, "hybrid_epochs": 3}
    several = imagenet.Config(method="none,kd,hybrid", **settings)
    runs = settings_lib.runs_of(several)
    assert {name: run.plus for name, run in runs.items()} == {
        "none": "",
        "kd": "",
        "hybrid": "at",
    }
    assert runs["hybrid"].plus_weight == 0.5
    assert [(run.paths_per_step, run.hybrid_epochs) for run in runs.values()] == [
        (2, None),
        (2, None),
        (1, 3),
    ]


@pytest.mark.parametrize("plus", ["kd", "at"])
def test_a_baseline_is_added(plus, files, tmp_path, eager):
    tiny.student().save(tmp_path / "classifier.keras")
    settings = {"teacher": str(tmp_path / "classifier.keras"), "plus": plus}
    settings |= {"plus_weight": 0.5, "paths_per_step": 1, "hybrid_epochs": 1}
    settings |= {"teacher_dtype": "bfloat16"}
    imagenet.main(config(files, tmp_path / "run", **settings))
    _, model, _ = imagenet.prepare(config(files, tmp_path, **settings))
    assert type(model.plus) is baselines.METHODS[plus]
    assert (model.plus.weight, model.paths_per_step) == (0.5, 1)
    assert model.teacher_dtype == "bfloat16"
    first, second = read_rows(tmp_path / "run" / "metrics.csv")
    assert "transfer_loss" in first
    assert not {"transfer_loss", "balance"} & set(second)


def test_batch_norm_momentum_of_a_student_from_scratch_is_0_9(files, tmp_path):
    settings = config(files, tmp_path, student="MobileNet")
    student = students.classifier(settings, size=32, classes=4)
    norms = [x for x in student.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == 27
    assert {norm.momentum for norm in norms} == {0.9}


def test_a_student_starts_from_given_weights(files, tmp_path, monkeypatch):
    build, downloaded = keras.applications.MobileNet, []

    @functools.wraps(build)
    def build_random(weights, **kwargs):
        downloaded.append(weights)
        return build(weights=None, **kwargs)

    monkeypatch.setattr(keras.applications, "MobileNet", build_random)
    path = str(tmp_path / "mobilenet.weights.h5")
    trained = applications.load("MobileNet", weights=None, input_shape=(32, 32, 3))
    trained.save_weights(path)
    downloaded.clear()
    kernels = []
    for weights in ("random", "imagenet", path):
        settings = config(files, tmp_path, student="MobileNet", student_weights=weights)
        student = students.classifier(settings, size=32, classes=4)
        assert student.output_shape == (None, 4)
        kernels.append(student.get_layer("conv1").kernel.numpy())
    assert downloaded[:2] == [None, "imagenet"]
    assert "imagenet" not in downloaded[2:]
    same = [(k == trained.get_layer("conv1").kernel.numpy()).all() for k in kernels]
    assert same == [False, False, True]


def test_training_in_mixed_precision(files, tmp_path, narrow, graph_optimization):
    settings = {"student": "MobileNet", "mixed_precision": True, "epochs": 1}
    results = imagenet.main(config(files, tmp_path, **settings))
    student = keras.saving.load_model(tmp_path / "student.keras")
    assert student.get_layer("conv1").compute_dtype == "float16"
    assert results["top1"] >= 0
    assert keras.config.dtype_policy().name == "float32"
    assert not tf.config.optimizer.get_experimental_options()["disable_meta_optimizer"]


def test_a_diverging_run_writes_no_student(files, tmp_path, eager):
    with pytest.raises(FloatingPointError, match="became infinite or NaN in epoch 1"):
        imagenet.main(config(files, tmp_path, learning_rate=1e30, epochs=3))
    assert not (tmp_path / "student.keras").exists()
    assert not (tmp_path / "results.json").exists()


def test_corrupt_images_are_skipped_and_reported(files, tmp_path, monkeypatch, eager):
    """A resumed run reports them even if its training was already complete."""
    rng = np.random.default_rng(1)
    for split in ("train", "val"):
        for name in ("cat", "dog", "emu", "fox"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 255, (40, 50, 3)).astype("uint8")
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    broken = [tmp_path / "data" / name for name in ("train/dog/2.jpg", "val/cat/1.jpg")]
    for path in broken:
        path.write_bytes(path.read_bytes()[:100])
    tiny.student(size=None).save(tmp_path / "any_size.keras")
    settings = {
        "data_dir": str(tmp_path / "data"),
        "student": str(tmp_path / "any_size.keras"),
        "epochs": 1,
        "export": "tflite",
    }
    with monkeypatch.context() as patch:
        patch.setattr(workdir, "save_model", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            imagenet.main(config(files, tmp_path / "run", **settings))
    results = imagenet.main(config(files, tmp_path / "run", **settings))
    assert results["skipped_images"] == [str(path) for path in broken]
    assert results["class_names"] == ["cat", "dog", "emu", "fox"]
    file = Interpreter(str(tmp_path / "run" / "student.tflite")).get_signature_runner()
    assert file.get_input_details()["image"]["shape"].tolist() == [1, 224, 224, 3]


def weighted_layers(settings):
    _, model = imagenet.build(settings, imagenet.open_data(settings))
    return [path.weighted_layers for path in model.paths]


def test_paths_have_the_weighted_layers_of_the_paper(files, tmp_path, monkeypatch):
    """46, 32 and 28 in Fig. 6; with a switch at every stride, 39, 39 and 28."""
    settings = {"teacher": "ResNet50", "student": "MobileNet"}
    settings["teacher_preprocessing"] = "inside"
    random = functools.partial(applications.load, weights=None)
    monkeypatch.setattr(
        imagenet.engine.networks,
        "by_name",
        lambda flag, name, make=None, **kw: random(name, **kw),
    )
    assert weighted_layers(config(files, tmp_path, **settings)) == [46, 32, 28]
    settings["switch_points"] = "all"
    assert weighted_layers(config(files, tmp_path, **settings)) == [39, 39, 28]


def test_a_resnet50_of_pytorch_has_the_papers_paths(files, tmp_path, narrow, eager):
    """Table 1's teacher, torchvision's ResNet-50, from a file of its weights."""
    path = tmp_path / "resnet50.npz"
    np.savez(path, **torch_weights.state_dict())
    networks = {"teacher": str(path), "student": "MobileNet"}
    settings = config(files, tmp_path, teacher_preprocessing="inside", **networks)
    _, model, _ = imagenet.prepare(settings)
    table = keras_hybrid.describe(model)
    for kind, count in (("student_first", 46), ("teacher_first", 32), ("plain", 28)):
        assert f"{kind} path, {count} weighted layers" in table
    with np.load(files / "data.npz") as data:
        model.train_on_batch(data["x_train"][:2], data["y_train"][:2])


def test_several_teachers(files, tmp_path, eager):
    tiny.teacher(channels=(5, 7)).save(tmp_path / "other.keras")
    token_networks.vit(name="vit").save(tmp_path / "vit.keras")
    names = files / "teacher.keras", tmp_path / "other.keras", tmp_path / "vit.keras"
    settings = {
        "teacher": ",".join(map(str, names)),
        "teacher_preprocessing": "tf,inside,torch",
        "switch_points": "all",
    }
    _, model, _ = imagenet.prepare(config(files, tmp_path, **settings))
    assert [path.owners[0] for path in model.paths] == 3 * ["student", "teacher"] + [
        "student"
    ]
    imagenet.main(config(files, tmp_path / "run", epochs=1, **settings))
    log = (tmp_path / "run" / "metrics.csv").read_text()
    assert "teacher_first_3_loss" in log
    with pytest.raises(ValueError, match="--teacher must be one network with"):
        config(files, tmp_path, method="at", **settings)
    settings["teacher_preprocessing"] = "tf,inside"
    with pytest.raises(ValueError, match="must be one, or one for each of 3 teachers"):
        config(files, tmp_path, **settings)
    with pytest.raises(ValueError, match="--teacher_preprocessing must be one of inside"):
        config(files, tmp_path, teacher_preprocessing="imagenet")


def test_a_mobilenet_v2_of_pytorch_can_be_the_student(files, tmp_path):
    path = tmp_path / "mobilenet_v2.npz"
    weights = torch_weights.mobilenet_v2()
    np.savez(path, **weights)
    student = students.classifier(
        config(files, tmp_path, student=str(path)), size=32, classes=4
    )
    assert student.output_shape == (None, 4)
    found = [w for w in student.weights if w.path.endswith("features_0_1/gamma")]
    np.testing.assert_array_equal(found[0], weights["features.0.1.weight"])
    assert found[0].trainable


def test_default_switch_points_without_the_papers_strides(files, tmp_path):
    _, model, _ = imagenet.prepare(config(files, tmp_path))
    assert model.paths[0].owners == ("student", "teacher", "student")
    _, model, _ = imagenet.prepare(config(files, tmp_path, switch_points="4"))
    assert model.paths[0].owners == ("student", "teacher")


def test_learning_rate_schedule_is_that_of_the_paper():
    optimizer = imagenet.build_optimizer(imagenet.Config(), steps_per_epoch=10)
    rates = [float(optimizer._learning_rate(step)) for step in (0, 299, 301, 601)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_the_gradient_norm_is_clipped_to_10():
    optimizer = imagenet.build_optimizer(imagenet.Config(weight_decay=0.0), 10)
    weights = [keras.Variable([0.0, 0.0]), keras.Variable([0.0])]
    optimizer.apply([np.array([30.0, 0.0]), np.array([40.0])], weights)
    # The norm of 50 is clipped to 10; the learning rate is 0.1.
    np.testing.assert_allclose(weights[0].numpy(), [-0.6, 0.0], rtol=1e-5)
    np.testing.assert_allclose(weights[1].numpy(), [-0.8], rtol=1e-5)


MISTAKES = {
    "unknown flag": (["--epoch=3"], "epoch"),
    "stray word": (["stray", "--epochs=1"], "--name=value. Received: stray"),
    "second value": (["--export", "tflite", "saved_model"], "Received: saved_model"),
    "no workdir": (["--workdir="], "--workdir must be a directory"),
    "home": (["--teacher=~/no.keras", "--method=at"], os.path.expanduser("~/no.keras")),
    "unknown value": (["--method=magic"], "magic"),
    "no number": (["--epochs=many"], "many"),
    "negative": (["--epochs=-1"], "--epochs must be above 0. Received: --epochs=-1"),
    "seed": (["--seed=-1"], "--seed must be from 0 to 4294967295. Received: --seed=-1"),
    "balance": (["--balance=often"], "--balance must be"),
    "weight": (["--method_weight=2"], "--method_weight must be left out with"),
    "negative weight": (["--method=at", "--method_weight=-2"], "--method_weight must be"),
    "dtype": (["--teacher_dtype=int8"], "--teacher_dtype must be bfloat16 or float16"),
    "plus": (
        ["--plus=hybrid"],
        "--plus must be one of kd, fitnet, at, ft,",
    ),
    "path alone": (
        ["--method=at", "--paths_per_step=1"],
        "--paths_per_step must be left out with --method=at. Received",
    ),
    "plus alone": (["--method=none", "--plus=at"], "--plus must be left out with"),
    "its weight": (["--plus_weight=2"], "--plus_weight must be left out without --plus"),
    "paths": (["--paths_per_step=3"], "--paths_per_step must be 1 or 2. Received"),
    "export": (["--export=onnx"], "--export must be"),
    "no data": (["--data_dir=/nowhere"], "Received: data_dir=/nowhere"),
}


@pytest.fixture(scope="module")
def mistake_results(tmp_path_factory):
    """Exit code and stderr of the recipe for each of `MISTAKES`, and its folder."""
    folder = tmp_path_factory.mktemp("mistakes")
    process = subprocess.run(
        [sys.executable, mistakes_process.__file__],
        input=json.dumps({name: flags for name, (flags, _) in MISTAKES.items()}),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        cwd=folder,
        env={**os.environ, **PATH},
    )
    return json.loads(process.stdout), folder


@pytest.mark.parametrize("mistake", MISTAKES)
def test_command_line_mistakes_are_reported_without_traceback(mistake, mistake_results):
    results, folder = mistake_results
    code, stderr = results[mistake]
    assert code != 0
    assert MISTAKES[mistake][1] in stderr
    assert "Traceback" not in stderr
    assert list(folder.iterdir()) == []


def error_message(files, tmp_path, **changes):
    """The message of the error that `main` raises before it creates the workdir."""
    workdir = tmp_path / "run"
    with pytest.raises((ValueError, OSError)) as error:
        imagenet.main(config(files, workdir, **changes))
    assert not workdir.exists()
    return str(error.value)


def test_an_invalid_teacher_file_is_rejected(files, tmp_path):
    (tmp_path / "broken.keras").write_text("no model")
    message = error_message(files, tmp_path, teacher=str(tmp_path / "broken.keras"))
    assert "--teacher must be a model saved as .keras" in message
    message = error_message(files, tmp_path, teacher=str(tmp_path / "missing.keras"))
    assert "--teacher must be a file that exists" in message


def test_a_student_with_another_number_of_classes_is_rejected(files, tmp_path):
    tiny.student(classes=7).save(tmp_path / "seven.keras")
    message = error_message(files, tmp_path, student=str(tmp_path / "seven.keras"))
    assert "--student must be a classifier of 4 classes" in message


def student_file(folder, **kinds):
    """Path of a student with another input shape or other outputs."""
    shape = kinds.get("shape", (None, 32, 32, 3))
    image = keras.Input(batch_shape=shape)
    x = keras.layers.Conv2D(4, 3, 2, padding="same")(image)
    x = keras.layers.Conv2D(4, 3, 2, padding="same")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    probabilities = keras.layers.Softmax()(x)
    outputs = {"logits": x, "two": [probabilities, x], "dict": {"a": probabilities}}
    student = keras.Model(image, outputs.get(kinds.get("output"), probabilities))
    student.save(folder / "student.keras")
    return str(folder / "student.keras")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"shape": (None, 64, 64, 3)}, r"\(None, 32, 32, 3\).*which takes \(None, 64, "),
        ({"shape": (8, 32, 32, 3)}, r"which takes \(8, 32, 32, 3\)"),
        ({"shape": (None, 32, 32, 1)}, r"which takes \(None, 32, 32, 1\)"),
        ({"output": "two"}, "must be a classifier of 4 classes"),
        ({"output": "dict"}, "must be a classifier of 4 classes"),
        ({"output": "logits"}, "must be a classifier that ends in a softmax"),
    ],
)
def test_a_student_that_does_not_fit_the_data_is_rejected(kind, message, files, tmp_path):
    student = student_file(tmp_path, **kind)
    received = error_message(files, tmp_path, student=student)
    assert received.startswith("--student must be ")
    assert re.search(message, received)


def test_kd_needs_a_teacher_for_the_image_size(files, tmp_path):
    teacher = student_file(tmp_path, shape=(None, 64, 64, 3))
    message = error_message(files, tmp_path, method="kd", teacher=teacher)
    assert "--teacher must be a network of RGB images of shape (None, 32, 32" in message


@pytest.mark.parametrize("points", ["", "2,", "8,2", "2,2", "two", "2;8", "-2", "all,2"])
def test_invalid_switch_points_are_rejected(points):
    with pytest.raises(ValueError, match="--switch_points must be increasing strides"):
        imagenet.Config(switch_points=points)


def test_switch_points_missing_from_the_networks_are_rejected(files, tmp_path):
    message = error_message(files, tmp_path, switch_points="4,16")
    assert '--switch_points must be strides out of [2, 4], or "all"' in message


def test_kd_needs_a_teacher_of_the_same_classes(files, tmp_path):
    assert "of the same classes" in error_message(files, tmp_path, method="kd")


def test_kd_suggests_a_command_that_trains_a_teacher(files, tmp_path):
    settings = config(files, tmp_path, method="kd", teacher="VGG16")
    message = error_message(files, tmp_path, method="kd", teacher="VGG16")
    assert "--teacher must be a .keras file of a network" in message
    assert message.endswith("Received: --teacher=VGG16")
    # The suggested command trains such a teacher.
    (command,) = re.findall("recipes.imagenet (.*), and", message)
    flags = dict(flag.removeprefix("--").split("=") for flag in command.split())
    assert flags["data_dir"] == settings.data_dir
    assert (flags["method"], flags["student"]) == ("none", "VGG16")
    assert flags.pop("student_weights") == "imagenet"  # which a test does not download
    settings = dataclasses.replace(settings, **flags)
    student = students.classifier(settings, size=32, classes=4)
    assert student.output_shape == (None, 4)


def test_labels_out_of_range_are_rejected(files, tmp_path):
    with np.load(files / "data.npz") as data:
        arrays = dict(data)
    arrays["y_test"] = arrays["y_test"] + 1
    np.savez(tmp_path / "wrong.npz", **arrays)
    message = error_message(files, tmp_path, data_dir=str(tmp_path / "wrong.npz"))
    assert "y_test[3]=4" in message


def test_a_batch_larger_than_the_data_is_rejected(files, tmp_path):
    assert "--batch_size must be" in error_message(files, tmp_path, batch_size=25)


def test_a_workdir_inside_a_file_is_rejected(files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="--workdir must be a directory"):
        imagenet.main(config(files, tmp_path / "file" / "run"))


def test_an_unwritable_workdir_is_rejected(files, tmp_path, monkeypatch):
    # File permissions do not stop root, so the error is simulated.
    def mkdir(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "mkdir", mkdir)
    message = error_message(files, tmp_path)
    assert "--workdir must be writable. Received: --workdir=" in message
    assert "Permission denied" in message
