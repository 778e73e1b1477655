"""The segmentation recipe, from files to mIoU, plots and exports."""

import functools
import json
import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

import tiny
from detectors import small
from keras_hybrid.data import streets
from keras_hybrid.metrics import MeanIoU
from keras_hybrid.models.segmentation.deeplab_v2 import deeplab_v2
from keras_hybrid.recipes import cityscapes
from keras_hybrid.recipes.engine import students, synthetic, workdir
from runs import PATH, flags
from trees import add_cityscapes, grey, halves, save

SIZE = 64, 96
RATES = 1, 2, 3, 4


def street_images(count, seed):
    """Images and labels of a bright road beside a dark car, with unlabelled rows."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 40, (count, *SIZE, 3))
    labels = np.full((count, *SIZE), 26, "uint8")
    for image, label_map, edge in zip(images, labels, rng.integers(20, 76, count)):
        image[:, :edge] += 200
        label_map[:, :edge] = 7
        label_map[:8] = 0
    return images.astype("uint8"), labels


def save_student(path, classes):
    """A small DeepLab v2."""
    network = tiny.student(size=None)
    trunk = keras.Model(network.input, network.get_layer("out3").output)
    deeplab_v2(trunk, classes, output_stride=4, rates=RATES).save(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tiny Cityscapes tree, and a small student and teacher."""
    folder = tmp_path_factory.mktemp("segmentation")
    add_cityscapes(folder, "train", *street_images(12, seed=0))
    add_cityscapes(folder, "val", *street_images(3, seed=1))
    keras.utils.set_random_seed(0)
    save_student(folder / "student.keras", classes=19)
    tiny.teacher(size=None).save(folder / "teacher.keras")
    return folder


def config(files, workdir, **changes):
    settings = {
        "data_dir": str(files),
        "workdir": str(workdir),
        "teacher": str(files / "teacher.keras"),
        "student": str(files / "student.keras"),
        "steps": 2,
        "batch_size": 12,
        "crop_height": 64,
        "crop_width": 96,
    }
    return cityscapes.Config(**{**settings, **changes})


def predictions(directory, images):
    student = keras.saving.load_model(directory / "student.keras", compile=False)
    return np.argmax(student(images.astype("float32")), axis=-1)


def labels_in(path):
    """The names in the metadata of a TFLite file."""
    with zipfile.ZipFile(path) as archive:
        return archive.read("labels.txt").decode().splitlines()


def test_recipe_writes_miou_plots_and_exports(files, tmp_path, rendering):
    settings = {"steps": 7, "batch_size": 4, "export": "saved_model,tflite"}
    results = cityscapes.main(config(files, tmp_path, **settings))
    assert json.loads((tmp_path / "results.json").read_text()) == results
    images, labels = street_images(3, seed=1)
    truth = np.select([labels == 7, labels == 26], [0, 13], 255)
    metric = MeanIoU()
    metric.update_state(truth, predictions(tmp_path, images))
    assert results["miou"] == pytest.approx(100 * float(metric.result()), abs=0.01)
    assert results["iou"]["road"] == pytest.approx(
        100 * metric.result_per_class()[0], abs=0.01
    )
    log = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(log) == 1 + 3  # epochs of 3 steps
    assert {"balance", "mean_iou", "student_loss"} <= set(log[0].split(","))
    with Image.open(tmp_path / "predictions.png") as picture:
        assert picture.size == (1200, 960)
    file = Interpreter(str(tmp_path / "student.tflite")).get_signature_runner()
    scores = file(image=images[:1].astype("float32"))["output_0"]
    assert scores.shape == (1, *SIZE, 19)
    names = results["class_names"]
    assert (len(names), names[0], names[18]) == (19, "road", "bicycle")
    assert (tmp_path / "labels.txt").read_text().splitlines() == names
    assert labels_in(tmp_path / "student.tflite") == names
    assert (tmp_path / "saved_model" / "saved_model.pb").exists()


def test_a_trained_student_can_be_the_teacher_of_another_domain(files, tmp_path, eager):
    """As in Table 3, where the teacher is a DeepLab trained in another domain."""
    alone = config(files, tmp_path / "one", method="none", teacher="")
    cityscapes.main(alone)
    teacher = str(tmp_path / "one" / "student.keras")
    add_cityscapes(tmp_path / "other", "train", *street_images(2, seed=2))
    add_cityscapes(tmp_path / "other", "val", *street_images(2, seed=3))
    with_teacher = config(
        files, tmp_path / "two", teacher=teacher, also_evaluate=str(tmp_path / "other")
    )
    _, model, _ = cityscapes.prepare(with_teacher)
    assert [path.owners for path in model.paths[:2]] == [
        ("student", "teacher"),
        ("teacher", "student"),
    ]
    results = cityscapes.main(with_teacher)
    images, labels = street_images(2, seed=3)
    truth = np.select([labels == 7, labels == 26], [0, 13], 255)
    metric = MeanIoU()
    metric.update_state(truth, predictions(tmp_path / "two", images))
    expected = pytest.approx(100 * float(metric.result()), abs=0.01)
    assert results["also_evaluate"]["miou"] == expected


def test_method_none_trains_the_student_alone(files, tmp_path, eager):
    results = cityscapes.main(config(files, tmp_path, method="none", teacher=""))
    assert results["method"] == "none"
    assert "balance" not in (tmp_path / "metrics.csv").read_text()


@pytest.mark.parametrize("method", ["at", "ab"])
def test_a_baseline_trains_the_student(method, files, tmp_path, eager):
    results = cityscapes.main(config(files, tmp_path, method=method))
    assert results["method"] == method
    assert "transfer_loss" in (tmp_path / "metrics.csv").read_text()


def test_learning_rate_decays_to_zero_at_the_last_step(files, tmp_path):
    settings = config(files, tmp_path, learning_rate=0.01, steps=40)
    schedule = cityscapes.build_optimizer(settings)._learning_rate
    assert float(schedule(0)) == pytest.approx(0.01)
    assert float(schedule(20)) == pytest.approx(0.01 * 0.5**0.9)
    assert float(schedule(40)) == float(schedule(41)) == 0


def test_batch_norm_momentum_of_a_student_from_scratch_is_0_9(files, tmp_path):
    settings = config(files, tmp_path, student="MobileNet", student_weights="random")
    student = students.segmenter(settings, classes=19)
    norms = [x for x in student.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == 27
    assert {norm.momentum for norm in norms} == {0.9}


def test_training_in_mixed_precision(files, tmp_path, narrow, eager):
    for split, count in (("train", 2), ("val", 1)):
        images, labels = (
            all_of[:, :32, 16:48] for all_of in street_images(count, seed=0)
        )
        add_cityscapes(tmp_path / "data", split, images, labels)
    settings = {"student": "MobileNet", "student_weights": "random"}
    settings |= {"output_stride": 16, "steps": 1, "mixed_precision": True}
    settings |= {"data_dir": str(tmp_path / "data"), "batch_size": 2}
    settings |= {"crop_height": 32, "crop_width": 32}
    results = cityscapes.main(config(files, tmp_path, **settings))
    student = keras.saving.load_model(tmp_path / "student.keras", compile=False)
    assert student.get_layer("conv1").compute_dtype == "float16"
    assert student.output.dtype == "float32"
    assert results["miou"] >= 0


def test_export_of_a_label_map(files, tmp_path, eager):
    cityscapes.main(config(files, tmp_path, export="tflite", export_label_map=True))
    file = Interpreter(str(tmp_path / "student.tflite")).get_signature_runner()
    images, _ = street_images(1, seed=5)
    labels = file(image=images.astype("float32"))["output_0"]
    assert labels.dtype == np.uint8
    assert labels_in(tmp_path / "student.tflite")[:2] == ["road", "sidewalk"]
    assert np.mean(labels == predictions(tmp_path, images)) > 0.999


def test_a_resumed_run_equals_an_uninterrupted_one(files, tmp_path, monkeypatch, eager):
    cityscapes.main(config(files, tmp_path / "alone"))
    with monkeypatch.context() as patch:
        patch.setattr(workdir, "save_model", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cityscapes.main(config(files, tmp_path / "ended"))
    cityscapes.main(config(files, tmp_path / "ended"))
    images, _ = street_images(2, seed=5)
    students = [
        keras.saving.load_model(tmp_path / name / "student.keras", compile=False)
        for name in ("alone", "ended")
    ]
    one, other = (student(images.astype("float32")) for student in students)
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_recipe_runs_on_synthetic_streets_without_data(
    tmp_path, monkeypatch, shallow, eager
):
    """By day, with a teacher for dusk that is trained once and cached."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    few = functools.partial(
        synthetic.streets_with_labels, training_images=8, test_images=2
    )
    monkeypatch.setattr(synthetic, "streets_with_labels", few)
    monkeypatch.setattr(synthetic, "STREET_SIZE", (32, 64))
    monkeypatch.setattr(synthetic, "STREET_CROP", (32, 32))
    save_student(tmp_path / "student.keras", classes=len(streets.LABELS))
    settings = cityscapes.Config(
        workdir=str(tmp_path / "run"),
        student=str(tmp_path / "student.keras"),
        steps=2,
        batch_size=4,
        crop_height=32,
        crop_width=32,
        also_evaluate="dusk",
    )
    results = cityscapes.main(settings)
    assert set(results["iou"]) >= {"road", "pedestrian", "car"}
    assert results["also_evaluate"]["miou"] >= 0
    (teacher,) = (tmp_path / "cache" / "keras_hybrid").iterdir()
    assert keras.saving.load_model(teacher).output_shape[-1] == len(results["iou"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_width": 100}, "--crop_width must be a multiple of 32. Received: .*=100"),
        ({"steps": 0}, "--steps must be above 0"),
        ({"batch_size": 13}, "--batch_size must be at most 12 images"),
        ({"teacher": ""}, "--teacher must be given with --data_dir"),
        ({"teacher": "no.keras"}, "--teacher must be a file that exists"),
        ({"data_dir": "nowhere"}, "must be a folder. Received: data_dir=nowhere"),
        ({"also_evaluate": "nowhere"}, "--also_evaluate: .* Received: data_dir=nowhere"),
        ({"balance": "much"}, "--balance must be"),
        ({"export": "onnx"}, "--export must be saved_model, tflite or both"),
    ],
)
def test_invalid_settings_are_rejected_before_training(files, tmp_path, changes, message):
    with pytest.raises((ValueError, OSError), match=message) as error:
        cityscapes.main(config(files, tmp_path / "run", **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_teacher_without_a_common_stride_is_rejected(files, tmp_path):
    image = keras.Input((None, None, 3))
    teacher = keras.Model(image, keras.layers.Conv2D(4, 64, 64)(image))
    teacher.save(tmp_path / "teacher.keras")
    settings = config(files, tmp_path / "run", teacher=str(tmp_path / "teacher.keras"))
    with pytest.raises(ValueError, match="must have stages of two strides in common"):
        cityscapes.main(settings)


STUDENTS = {
    "five classes": (None, 5, None, "a segmenter of 19 classes"),
    "fixed size": (64, 19, None, "a network of RGB images of shape .*, 64, 64, 3"),
    "softmax": (None, 19, "softmax", "a segmenter that ends in logits"),
    "two outputs": (None, 19, "two", "a segmenter of 19 classes"),
}


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_student_that_cannot_be_evaluated_is_rejected(kind, files, tmp_path):
    size, classes, end, message = STUDENTS[kind]
    network = tiny.student(size=size)
    trunk = keras.Model(network.input, network.get_layer("out3").output)
    student = deeplab_v2(trunk, classes, output_stride=4, rates=RATES)
    outputs = {
        "softmax": lambda x: keras.layers.Softmax()(x),
        "two": lambda x: [x, keras.layers.Identity()(x)],
        None: lambda x: x,
    }[end](student.output)
    keras.Model(student.input, outputs).save(tmp_path / "student.keras")
    settings = config(files, tmp_path / "run", student=str(tmp_path / "student.keras"))
    with pytest.raises(ValueError, match=f"--student must be {message}") as error:
        cityscapes.main(settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_another_data_set_must_have_the_same_classes(files, tmp_path):
    for split in ("train", "test"):
        save(tmp_path / "other" / split / "0.png", grey(1))
        save(tmp_path / "other" / f"{split}annot" / "0.png", halves(1, 2))
    settings = config(files, tmp_path / "run", also_evaluate=str(tmp_path / "other"))
    with pytest.raises(ValueError, match="--also_evaluate must be a data set of the"):
        cityscapes.main(settings)


def test_broken_label_maps_are_skipped_and_reported(files, tmp_path, monkeypatch, eager):
    """A resumed run reports them even if its training was already complete."""
    for root in ("data", "other"):
        add_cityscapes(tmp_path / root, "train", *street_images(8, seed=0))
        add_cityscapes(tmp_path / root, "val", *street_images(3, seed=1))
    broken = ("data/gtFine/train", 5), ("data/gtFine/val", 2), ("other/gtFine/val", 1)
    for folder, index in broken:
        path = sorted((tmp_path / folder / "aachen").iterdir())[index]
        Image.fromarray(halves(7, 8)).save(path)
    roots = {"data_dir": tmp_path / "data", "also_evaluate": tmp_path / "other"}
    changes = {"batch_size": 4, **{name: str(root) for name, root in roots.items()}}
    with monkeypatch.context() as patch:
        patch.setattr(workdir, "save_model", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cityscapes.main(config(files, tmp_path / "run", **changes))
    results = cityscapes.main(config(files, tmp_path / "run", **changes))
    training, test, other = results["skipped_images"]
    assert training.endswith("train/aachen/aachen_000005_000019_leftImg8bit.png")
    assert test.endswith("val/aachen/aachen_000002_000019_leftImg8bit.png")
    assert other.endswith("val/aachen/aachen_000001_000019_leftImg8bit.png")


def test_a_saved_detector_can_be_the_teacher(files, tmp_path):
    """As in Table 2; the process that loads the file has not imported its class."""
    detector = small()
    detector.save(tmp_path / "detector.keras")
    settings = config(files, tmp_path / "run", teacher=str(tmp_path / "detector.keras"))
    command = [sys.executable, "-m", "keras_hybrid.recipes.cityscapes"]
    environment = {**os.environ, **PATH}
    subprocess.run(
        [*command, *flags(settings)], check=True, cwd=tmp_path, env=environment
    )
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["method"] == "hybrid"
    rows = (tmp_path / "run" / "metrics.csv").read_text()
    assert "teacher_first_loss" in rows
