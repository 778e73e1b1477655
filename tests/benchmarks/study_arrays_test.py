"""Images, crops and figures where TensorFlow is missing."""

import types

import keras
import numpy as np
import pytest
from PIL import Image

from keras_hybrid.models.segmentation import evaluation

CLASSES = 3


@pytest.fixture
def small(module, tmp_path):
    """Images of 8 pixels, packed, in an .npz and as arrays.

    A pixel's colour says of which image it is (red, green) and where in it (blue).
    """
    arrays = {
        "y_train": np.arange(2000)[:, None] % 10,
        "y_test": np.arange(1000)[:, None],
    }
    for part, count in (("train", 2000), ("test", 1000)):
        number = np.arange(count)[:, None, None] + np.zeros((8, 8), int)
        place = np.arange(64).reshape(8, 8) + np.zeros_like(number)
        images = np.stack([number // 200, number % 200, place], axis=-1) + 1
        arrays[f"x_{part}"] = images.astype("uint8")
    arrays["y_test"] %= 10
    np.savez(tmp_path / "images.npz", **arrays)
    module("study.arrays").pack_small(tmp_path / "images.npz", tmp_path / "small")
    return types.SimpleNamespace(folder=tmp_path / "small", **arrays)


@pytest.fixture
def maps(tmp_path):
    """A folder as CamVid's, where a pixel's colour says its class and its place."""
    (tmp_path / "classes.txt").write_text("Sky\nRoad\nCar\nVoid\n")
    random = np.random.default_rng(0)
    for part, count in (("train", 5), ("test", 2)):
        for folder in (part, f"{part}annot"):
            (tmp_path / folder).mkdir()
        for i in range(count):
            labels = np.repeat(random.integers(0, CLASSES + 1, (3, 5)), 12, axis=0)
            labels = np.repeat(labels, 12, axis=1).astype("uint8")
            image = np.stack([60 * (labels + 1)] * 3, axis=-1)
            Image.fromarray(image).save(tmp_path / part / f"{i}.png")
            Image.fromarray(labels).save(tmp_path / f"{part}annot" / f"{i}.png")
    return tmp_path


def test_small_images_come_back_as_they_were(module, small):
    for part in ("train", "test"):
        images, labels = module("study.arrays").read_small(small.folder, part)
        np.testing.assert_array_equal(images, getattr(small, f"x_{part}"))
        np.testing.assert_array_equal(labels, getattr(small, f"y_{part}")[:, 0])


def test_small_crops_are_shifted_mirrored_and_all_there(module, small):
    config = {"batch_size": 500, "seed": 1}
    data = module("study.arrays").SmallImages(config, small.folder)
    assert data.steps_per_epoch == 4
    batches = list(data.training_batches(2))
    assert len(batches) == 8
    padded = np.pad(small.x_train, [(0, 0), (4, 4), (4, 4), (0, 0)])
    seen, shifts, mirrored = [], set(), 0
    for images, labels in batches[:4]:
        assert images.dtype == "float32"
        for image, label in zip(images.astype(int), labels):
            row, column = np.argwhere(image[..., 0])[0]
            red, green, place = image[row, column] - 1
            index = 200 * red + green
            if np.diff(image[row, column : column + 2, 2]) < 0:
                image, column, mirrored = image[:, ::-1], 7 - column, mirrored + 1
            top, left = place // 8 - row + 4, place % 8 - column + 4
            np.testing.assert_array_equal(
                image, padded[index, top : top + 8, left : left + 8]
            )
            assert label == small.y_train[index, 0]
            seen.append(index)
            shifts.add((top, left))
    assert sorted(seen) == list(range(2000))
    assert shifts == {(top, left) for top in range(9) for left in range(9)}
    assert 900 < mirrored < 1100
    # Of the second epoch in another order, of the same seed the same.
    assert (batches[0][1] != batches[4][1]).any()
    again = next(iter(data.training_batches(2)))
    np.testing.assert_array_equal(again[0], batches[0][0])


def test_top1_and_top5(module, small):
    config = {"batch_size": 500, "seed": 0}
    data = module("study.arrays").SmallImages(config, small.folder)
    # The first pixel of image i is (1 + i // 200, 1 + i % 200, 1), and its class i % 10.
    image = keras.Input((8, 8, 3))
    number = 200 * image[:, 0, 0, 0] + image[:, 0, 0, 1] - 201
    # The truth is in place 1 of the first 300, in place 3 of 200 more, else in place 6.
    place = 2 * keras.ops.cast(number >= 300, "float32")
    place += 3 * keras.ops.cast(number >= 500, "float32")
    better = (number[:, None] - keras.ops.arange(10, dtype="float32")) % 10
    scores = -((better + place[:, None]) % 10)
    model = keras.Model(image, keras.ops.softmax(scores))
    metrics = [
        keras.metrics.SparseCategoricalAccuracy(name="top1"),
        keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5"),
    ]
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=metrics)
    results = data.evaluate(model)
    assert (results["top1"], results["top5"]) == (30.0, 50.0)


def test_label_maps_go_with_their_crops(module, maps):
    size = {"crop_height": 32, "crop_width": 40}
    config = {"batch_size": 2, "seed": 0, **size}
    data = module("study.arrays").LabelMaps(config, maps)
    assert data.steps_per_epoch == 2
    images, labels = (np.concatenate(x) for x in zip(*data.training_batches(11)))
    assert images.shape == (44, 32, 40, 3)
    assert labels.shape == (44, 32, 40)
    # Away from edges the colour is the class's, or black beside the image.
    colours = np.where(labels == 255, 60 * (CLASSES + 1), 60 * (labels + 1))
    right = (images[..., 0] == colours) | ((images[..., 0] == 0) & (labels == 255))
    assert right.mean() > 0.75
    assert set(np.unique(labels)) == {0, 1, 2, 255}


def test_mean_iou_of_whole_images(module, maps, monkeypatch):
    config = {"batch_size": 1, "seed": 0, "crop_height": 8, "crop_width": 8}
    data = module("study.arrays").LabelMaps(config, maps)
    sizes = []

    def predict(images):
        sizes.append(images.shape)
        # What the colour says, but for roads, of which all are cars.
        labels = np.round(images[..., 0] / 60).astype(int) - 1
        return np.where(labels == 1, 2, labels)

    network = types.SimpleNamespace(predict_on_batch=predict)
    monkeypatch.setattr(evaluation, "at_size", lambda student, *size: student)
    monkeypatch.setattr(evaluation, "with_label_map", lambda student: student)
    results = data.evaluate(network)
    assert sizes == [(1, 64, 64, 3)] * 2  # of 36x60
    truth = [np.asarray(Image.open(maps / "testannot" / f"{i}.png")) for i in range(2)]
    cars, roads = ((np.stack(truth) == value).sum() for value in (2, 1))
    expected = {"Sky": 100.0, "Road": 0.0, "Car": 100 * cars / (cars + roads)}
    assert results["iou"] == pytest.approx(expected, abs=1e-3)
    assert results["miou"] == pytest.approx(sum(expected.values()) / 3, abs=1e-3)
