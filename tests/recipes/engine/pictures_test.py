"""Positions of boxes and curves in the plots of the recipes."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_hybrid.data.detection.dataset import DetectionDataset, People
from keras_hybrid.metrics import MissRateCurve
from keras_hybrid.recipes.engine import pictures

pytestmark = pytest.mark.usefixtures("rendering")


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def extent(mask):
    """(left, top, right, bottom) of the True pixels, relative to the size of the mask."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    height, width = mask.shape
    return (
        columns[0] / width,
        rows[0] / height,
        columns[-1] / width,
        rows[-1] / height,
    )


def test_boxes_are_plotted_at_the_scale_of_the_image(tmp_path):
    """A 100 x 200 image, enlarged twofold, with a person, a group and two detections."""
    people = People(
        np.array([[20.0, 20, 40, 60], [120.0, 20, 60, 60]]),
        np.ones(2),
        np.array([False, True]),
    )

    class Source:
        def __init__(self):
            self.people = [people]

        def __len__(self):
            return 1

    data = DetectionDataset(Source(), Source())
    batches = tf.data.Dataset.from_tensors(
        (np.tile([12.0, 30, 60], (1, 200, 400, 1)), {"index": [0], "scale": [[2.0, 2.0]]})
    )
    detections = [
        {"image_id": 0, "bbox": [20, 20, 40, 60], "score": 0.9},
        {"image_id": 0, "bbox": [100, 0, 50, 50], "score": 0.1},
        {"image_id": 1, "bbox": [100, 0, 50, 50], "score": 0.9},
    ]
    path = tmp_path / "people.png"
    pictures.draw_people(path, batches, data, detections)
    rendered = pixels(path)
    dark = extent((rendered == [12, 30, 60]).all(-1)[:, : rendered.shape[1] // 2])
    green = (rendered[..., 1] > 200) & (rendered[..., 0] < 60) & (rendered[..., 2] < 60)
    assert not green[:, rendered.shape[1] // 2 :].any()
    box = extent(green[:, : rendered.shape[1] // 2])
    shares = [(box[i] - dark[i % 2]) / (dark[2 + i % 2] - dark[i % 2]) for i in range(4)]
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.3, 0.8], atol=0.02)
    red = (rendered[..., 0] > 200) & (rendered[..., 1] < 60) & (rendered[..., 2] < 60)
    assert not red[:, : rendered.shape[1] // 2].any()
    left, _, right, bottom = extent(red[:, rendered.shape[1] // 2 :])
    np.testing.assert_allclose([left, right], [box[0], box[2]], atol=0.05)
    np.testing.assert_allclose(bottom, box[3], atol=0.02)


def test_subsets_without_people_are_omitted_from_the_plot(tmp_path):
    some = MissRateCurve(np.array([0.9]), np.array([0.01]), np.array([0.5]), 2)
    no_people = MissRateCurve(np.zeros(0), np.zeros(0), np.zeros(0), 0)
    path = tmp_path / "curves.png"
    pictures.draw_miss_rates(path, {"heavy": no_people})
    empty = pixels(path)
    pictures.draw_miss_rates(path, {"all": some, "heavy": no_people})
    assert np.any(pixels(path) != empty)


def test_a_class_name_with_dollar_signs_is_no_formula(tmp_path):
    batches = tf.data.Dataset.from_tensors(
        (np.zeros((1, 8, 8, 3), "float32"), np.zeros((1, 8, 8), "uint8"))
    )
    path, names = tmp_path / "labels.png", ["$x_$", "$20 to $30"]
    pictures.draw_label_maps(path, lambda _: np.zeros((1, 8, 8), int), batches, 1, names)
    assert pixels(path).any()


def test_sweep_plot_with_undefined_miss_rates(tmp_path):
    path = tmp_path / "sweep.png"
    pictures.draw_sweep(
        path,
        {"0.1": {"all": 40.0, "heavy": None}, "dynamic": {"all": 30.0, "heavy": None}},
        "MR in %",
    )
    assert pixels(path).shape == (500, 700, 3)
