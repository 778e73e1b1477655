"""People where TensorFlow is missing: crops, and who is found."""

import json

import numpy as np
import pytest

from detectors import save_people
from keras_hybrid.metrics import log_average_miss_rate
from keras_hybrid.models.detection import evaluation
from keras_hybrid.recipes import citypersons


@pytest.fixture
def settings(tmp_path):
    """Of the recipe, for a folder of a few people, some of whom are not to be learned."""
    save_people(tmp_path, "train", 12)
    save_people(tmp_path, "test", 5)
    return {
        "data_dir": str(tmp_path),
        "method": "none",
        "steps": 20,
        "batch_size": 4,
        "crop_height": 64,
        "crop_width": 96,
        "upscale": 1.5,
        "min_height": 26.0,
        "seed": 1,
    }


@pytest.fixture
def data(module, settings, tmp_path):
    people = module("study.people_arrays")
    config = citypersons.Config(**settings)
    subsets = citypersons.subsets_of(config)
    people.pack_people(config, citypersons.open_data(config), subsets, tmp_path)
    return people.PeopleBoxes(settings, tmp_path)


def test_boxes_are_where_the_people_are(data):
    assert data.steps_per_epoch == 3
    batches = list(data.training_batches(7))
    assert len(batches) == 21
    contrasts, labels, brightness = [], [], []
    for images, truth in batches:
        assert images.shape == (4, 64, 96, 3)
        assert images.dtype == truth["boxes"].dtype == "float32"
        for image, boxes, of_image in zip(images, truth["boxes"], truth["labels"]):
            everyone = np.zeros(image.shape[:2], bool)
            people = []
            for x, y, right, bottom in boxes[of_image != 0].round().astype(int):
                everyone[y:bottom, x:right] = True
                people.append(image[y + 2 : bottom - 2, x + 2 : right - 2])
            darkest = [person.min() for person in people if person.size]
            if darkest:
                contrasts.append(min(darkest) / image[~everyone].mean())
            brightness.append(image.max())
            labels.append(of_image[of_image != 0].tolist())
    assert len(contrasts) > 70
    # A pixel beside a box has something of the person in it.
    assert np.quantile(contrasts, 0.1) > 3
    assert {-1, 1} == set(sum(labels, []))
    assert np.mean([1 in of_image for of_image in labels]) > 0.7
    assert min(brightness) < 200 < 255 == max(brightness)


def test_who_is_found(data, monkeypatch, tmp_path):
    """A student that finds the middle half of each enlarged image."""

    class Middle:
        def __init__(self, student, height, width):
            assert (height, width) == (96, 160)

        def predict_on_batch(self, images):
            assert images.shape == (1, 96, 160, 3)
            assert not images[:, :, 144:].any()
            box = np.array([[[36.0, 24, 108, 72], [0, 0, 0, 0]]])  # of 96 x 144 pixels
            return {"boxes": box, "scores": np.array([[0.5, 0.0]])}

    monkeypatch.setattr(evaluation, "with_detections", Middle)
    results = data.evaluate(None)
    assert [one["image_id"] for one in data.detections] == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(data.detections[3]["bbox"], [24, 16, 48, 32])
    truth = json.loads((tmp_path / "people_test.json").read_text())
    assert results["test_images"] == len(truth["images"])
    for name in ("all", "reasonable"):
        expected = log_average_miss_rate(truth, data.detections, name)
        assert results["miss_rate"][name] == pytest.approx(expected, abs=0.01)
    assert results["miss_rate"]["heavy"] is None  # nobody is covered
