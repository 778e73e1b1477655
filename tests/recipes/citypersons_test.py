"""The detection recipe, from files to miss rates, plots and exports."""

import functools
import json
import shutil
import zipfile

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from pycocotools.coco import COCO

import tiny
from detectors import backbone, save_people
from keras_hybrid.data import streets
from keras_hybrid.metrics import log_average_miss_rate
from keras_hybrid.models.detection import evaluation
from keras_hybrid.recipes import citypersons
from keras_hybrid.recipes.engine import students, synthetic, teachers, workdir


def renumber(path):
    """Give images ids with gaps, and add a category of bicycles before that of people."""
    content = json.loads(path.read_text())
    for image in content["images"]:
        image |= {"id": 101 + 2 * image["id"], "width": 96, "height": 64}
    for number, record in enumerate(content["annotations"]):
        image_id, (_, _, width, height) = 101 + 2 * record["image_id"], record["bbox"]
        people = {"image_id": image_id, "category_id": 3, "area": width * height}
        record |= {"id": number, "iscrowd": 0, **people}
    bicycle = {"image_id": 101, "category_id": 1, "bbox": [0, 0, 90, 14], "id": 999}
    content["annotations"].append({**bicycle, "area": 90 * 14, "iscrowd": 0})
    content["categories"] = [{"id": 1, "name": "bicycle"}, {"id": 3, "name": "person"}]
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detection")
    save_people(folder, "train", 12)
    save_people(folder, "test", 3)
    for split in ("train", "test"):
        renumber(folder / f"people_{split}.json")
    keras.utils.set_random_seed(0)
    backbone((4, 8, 8, 8, 8), 1 / 255).save(folder / "backbone.keras")
    tiny.teacher(size=None).save(folder / "teacher.keras")
    return folder


def config(files, workdir, **changes):
    settings = {
        "data_dir": str(files),
        "workdir": str(workdir),
        "teacher": str(files / "teacher.keras"),
        "teacher_preprocessing": "tf",
        "student_backbone": str(files / "backbone.keras"),
        "steps": 2,
        "batch_size": 6,
        "crop_height": 64,
        "crop_width": 96,
        "upscale": 1.5,
        "min_height": 12.0,
        "channels": 8,
        "units": 16,
    }
    return citypersons.Config(**{**settings, **changes})


def test_recipe_writes_miss_rates_detections_plots_and_exports(
    files, tmp_path, rendering
):
    settings = {"steps": 5, "export": "saved_model,tflite"}
    results = citypersons.main(config(files, tmp_path, **settings))
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert set(results["miss_rate"]) == {
        *("reasonable", "reasonable_small", "heavy", "all", "learned")
    }
    assert results["miss_rate"]["heavy"] is None  # nobody is occluded
    detections = json.loads((tmp_path / "detections.json").read_text())
    truth = json.loads((files / "people_test.json").read_text())
    expected = log_average_miss_rate(truth, detections, "all", category_id=3)
    assert results["miss_rate"]["all"] == pytest.approx(expected, abs=0.01)
    assert {one["category_id"] for one in detections} == {3}
    found = COCO(str(files / "people_test.json")).loadRes(
        str(tmp_path / "detections.json")
    )
    assert found.getImgIds() == [101, 103, 105]
    assert {one["image_id"] for one in detections} <= {101, 103, 105}
    log = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(log) == 1 + 3  # epochs of 2 steps
    assert {"balance", "student_loss", "student_first_loss"} <= set(log[0].split(","))
    for name in ("predictions.png", "miss_rates.png", "curves.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 300
    file = Interpreter(str(tmp_path / "student.tflite")).get_signature_runner()
    found = file(image=np.zeros((1, 64, 96, 3), "float32"))
    assert found["boxes"].shape == (1, 100, 4)
    assert results["class_names"] == ["background", "person"]  # class 0 is never detected
    assert (tmp_path / "labels.txt").read_text() == "background\nperson\n"
    with zipfile.ZipFile(tmp_path / "student.tflite") as archive:
        assert archive.read("labels.txt") == b"background\nperson\n"
    assert (tmp_path / "saved_model" / "saved_model.pb").exists()
    keras.saving.load_model(tmp_path / "student.keras")


def test_detections_are_in_pixels_of_the_original_images(files, tmp_path, monkeypatch):
    """With a student that detects the central half of each enlarged image."""

    def with_centre_detections(student, height, width):
        del student

        class CentreDetector:
            def predict_on_batch(self, images):
                assert images.shape[1:3] == (height, width) == (96, 160)
                box = np.array([[[36.0, 24, 108, 72]]])  # of 96 x 144 pixels
                return {"boxes": box, "scores": np.array([[0.5]])}

        return CentreDetector()

    monkeypatch.setattr(evaluation, "with_detections", with_centre_detections)
    settings = config(files, tmp_path)
    batches = citypersons.evaluation_batches(settings, citypersons.open_data(settings))
    detections = evaluation.detections_of(None, batches, 3)
    assert [one["image_id"] for one in detections] == [0, 1, 2]
    np.testing.assert_allclose(detections[2]["bbox"], [24, 16, 48, 32])


def test_method_none_trains_the_student_alone(files, tmp_path, eager):
    results = citypersons.main(config(files, tmp_path, method="none", teacher=""))
    assert results["method"] == "none"
    assert "balance" not in (tmp_path / "metrics.csv").read_text()


def test_a_list_of_balances_runs_a_sweep(files, tmp_path, eager):
    settings = config(files, tmp_path, balance="0.1,dynamic", paths_per_step=1)
    results = citypersons.main(settings)
    assert set(results) == {"0.1", "dynamic"}
    for balance, result in results.items():
        path = tmp_path / f"balance_{balance}" / "results.json"
        assert json.loads(path.read_text()) == result
    assert (tmp_path / "sweep.png").exists()
    assert json.loads((tmp_path / "results.json").read_text()) == results
    fixed = (tmp_path / "balance_0.1" / "metrics.csv").read_text().splitlines()
    column = fixed[0].split(",").index("balance")
    alphas = [float(row.split(",")[column]) for row in fixed[1:]]
    assert alphas == pytest.approx([0.1] * len(alphas))
    assert citypersons.main(settings) == results


def test_anchor_heights_follow_the_heights_of_people(files, tmp_path):
    settings = config(files, tmp_path)
    data = citypersons.open_data(settings)
    heights = students.anchor_heights(settings, data.train)
    assert len(heights) == 11
    real = [box[3] for of_image in data.train.people for box in of_image.boxes]
    assert heights[0] == pytest.approx(1.5 * min(real), rel=0.05)
    assert heights[-1] == 384  # the map of stride 32 always has an anchor


def test_batch_norm_momentum_of_a_student_from_scratch_is_0_9(files, tmp_path):
    random = {"student_backbone": "MobileNet", "student_weights": "random"}
    network = students.detector_backbone(config(files, tmp_path, **random))
    norms = [x for x in network.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == 27
    assert {norm.momentum for norm in norms} == {0.9}


def test_a_nan_loss_is_reported_with_the_images_of_the_batch(files, tmp_path, eager):
    settings = config(files, tmp_path, learning_rate=1e30, steps=30)
    with pytest.raises(
        FloatingPointError, match=r"epoch 1, step \d, on .*/train/\d+\.png"
    ):
        citypersons.main(settings)
    assert not (tmp_path / "student.keras").exists()


def test_a_resumed_run_equals_an_uninterrupted_one(files, tmp_path, monkeypatch, eager):
    shutil.copytree(files, tmp_path / "data")
    broken = sorted((tmp_path / "data" / "train").iterdir())[3]
    broken.write_bytes(b"no image")
    settings = {"steps": 4, "data_dir": str(tmp_path / "data")}
    citypersons.main(config(files, tmp_path / "alone", **settings))
    with monkeypatch.context() as patch:
        patch.setattr(workdir, "save_model", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            citypersons.main(config(files, tmp_path / "ended", **settings))
    results = citypersons.main(config(files, tmp_path / "ended", **settings))
    assert results["skipped_images"] == [str(broken)]
    one, other = (
        json.loads((tmp_path / name / "detections.json").read_text())
        for name in ("alone", "ended")
    )
    np.testing.assert_allclose(
        [record["score"] for record in one],
        [record["score"] for record in other],
        atol=1e-4,
    )


def test_recipe_runs_on_synthetic_streets_without_data(
    files, tmp_path, monkeypatch, shallow, eager
):
    """By day, with a teacher of keypoints at dusk that is trained once and cached."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    few = functools.partial(
        synthetic.streets_with_people, training_images=8, test_images=2
    )
    monkeypatch.setattr(synthetic, "streets_with_people", few)
    monkeypatch.setattr(synthetic, "STREET_SIZE", (64, 128))
    monkeypatch.setattr(synthetic, "STREET_CROP", (32, 64))
    joints = functools.partial(teachers.joints_at_dusk, 4)
    monkeypatch.setattr(teachers, "joints_at_dusk", lambda _: joints())
    flags = {"data_dir": "", "teacher": "", "export": "tflite"}
    flags |= {"crop_height": 32, "crop_width": 64, "upscale": 1.0, "min_height": 16.0}
    settings = config(files, tmp_path / "run", **flags)
    results = citypersons.main(settings)
    assert results["training_images"] == 8
    file = Interpreter(str(tmp_path / "run" / "student.tflite")).get_signature_runner()
    shape = file.get_input_details()["image"]["shape"].tolist()
    assert shape == [1, 64, 128, 3]  # the size of a whole image, not of a crop
    (teacher,) = (tmp_path / "cache" / "keras_hybrid").iterdir()
    assert keras.saving.load_model(teacher).output_shape[:3] == (None, None, None)


def test_synthetic_ground_truth_has_the_pedestrians_of_the_scenes():
    data = synthetic.streets_with_people("day", training_images=3, test_images=1)
    for i, of_image in enumerate(data.train.people):
        scene = streets.scene(i, size=synthetic.STREET_SIZE, domain="day", seed=0)
        walkers = np.sum(scene.classes == streets.THINGS.index("pedestrian"))
        assert np.sum(~of_image.ignored) == walkers
        assert np.all(of_image.visibility <= 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_width": 100}, "--crop_width must be a multiple of 32"),
        ({"upscale": 0}, "--upscale must be above 0"),
        ({"min_height": -1}, "--min_height must be at least 0"),
        (
            {"category": "walker"},
            "one category named walker. Received: 1 bicycle, 3 person",
        ),
        ({"min_height": 500.0}, "--min_height must be such that there are people"),
        ({"balance": "0.1,fast"}, '--balance must be "dynamic" or a number'),
        ({"batch_size": 13}, "--batch_size must be at most 12 images"),
        ({"teacher": ""}, "--teacher must be given with --data_dir"),
        ({"teacher": "no.npz"}, "--teacher must be a file that exists"),
        ({"teacher": "no.keras"}, "--teacher must be a file that exists"),
        ({"student_backbone": "no.keras"}, "--student_backbone must be a file"),
        ({"student_backbone": "MobilNet"}, "Did you mean 'MobileNet'"),
        ({"data_dir": "nowhere"}, "must be a folder. Received: data_dir=nowhere"),
        ({"export": "onnx"}, "--export must be saved_model, tflite or both"),
    ],
)
def test_invalid_settings_are_rejected_before_the_run(files, tmp_path, changes, message):
    with pytest.raises((ValueError, OSError), match=message):
        citypersons.main(config(files, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_baseline_trains_the_detector(files, tmp_path, eager):
    results = citypersons.main(config(files, tmp_path, method="fitnet"))
    assert results["method"] == "fitnet"
    assert "transfer_loss" in (tmp_path / "metrics.csv").read_text()


def test_kd_is_rejected_for_detectors(files, tmp_path):
    with pytest.raises(ValueError, match="KD compares outputs"):
        citypersons.main(config(files, tmp_path, method="kd"))
    assert list(tmp_path.iterdir()) == []
