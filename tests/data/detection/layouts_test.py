"""Tiny data sets in the layouts of CityPersons and COCO, from files to batches."""

import json
import logging

import numpy as np
import pytest
import scipy.io
from PIL import Image

from keras_hybrid.data.detection import citypersons, coco
from keras_hybrid.data.detection.augment import enlarged, random_scale_crop_flip
from keras_hybrid.data.detection.layouts import open_dataset
from keras_hybrid.metrics import log_average_miss_rate

# label, x, y, w, h, id, visible x, y, w, h
_ROWS = [
    [1, 10, 5, 41, 100, 24000, 10, 5, 41, 50],
    [1, -7, 20, 20, 49, 24001, 0, 20, 13, 49],
    [2, 60, 5, 41, 100, 25000, 60, 5, 41, 100],
    [3, 100, 30, 40, 40, 24002, 100, 30, 40, 40],
    [4, 100, 30, 40, 40, 24003, 100, 30, 40, 40],
    [5, 0, 0, 90, 40, 24004, 0, 0, 90, 40],
    [0, 0, 0, 200, 40, 0, 0, 0, 200, 40],
]


def save_images(folder, names, size=(128, 256)):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size[::-1], (90, 90, 90)).save(folder / name)


def city_name(index):
    return f"aachen_{index:06}_000019_leftImg8bit.png"


def mat_entry(index, rows, dtype):
    """As in the official files, where the integer type differs between images."""
    bbs = np.array(rows, dtype).reshape(-1, 10) if rows else np.zeros((0, 0))
    entry = np.zeros((1, 1), [("cityname", "O"), ("im_name", "O"), ("bbs", "O")])
    entry[0, 0] = ("aachen", city_name(index), bbs)
    return entry


def save_mat(path, split, images):
    cells = np.empty((1, len(images)), "O")
    for index, (rows, dtype) in enumerate(images):
        cells[0, index] = mat_entry(index, rows, dtype)
    path.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path / f"anno_{split}.mat", {f"anno_{split}_aligned": cells})


def save_citypersons(root):
    names = [f"aachen/{city_name(i)}" for i in range(3)]
    for split in ("train", "val"):
        save_images(root / "leftImg8bit" / split, names)
        big = [[1, 30000, 2, 400, 976, 7, 30000, 2, 200, 976]]
        images = [(_ROWS, "int16"), ([], "uint8"), (big, "uint16")]
        save_mat(root / "annotations", split, images)
    return root


def test_citypersons_mat_files(tmp_path):
    """Small integer types, boxes beyond the image and images without boxes."""
    data = open_dataset(save_citypersons(tmp_path))
    assert len(data.train) == len(data.test) == 3
    first, empty, big = data.train.people
    np.testing.assert_array_equal(first.boxes[1], [-7, 20, 20, 49])
    assert first.ignored.tolist() == [False, False, True, True, True, True, True]
    np.testing.assert_allclose(first.visibility[:3], [0.5, 13 / 20, 1])
    assert empty.boxes.shape == (0, 4)
    assert big.boxes.tolist() == [[30000, 2, 400, 976]]
    assert big.visibility.tolist() == [0.5]
    assert data.train.names[0].endswith(f"leftImg8bit/train/aachen/{city_name(0)}")


def test_batches_have_boxes_labels_and_scales(tmp_path):
    data = open_dataset(save_citypersons(tmp_path))
    ((images, truth),) = data.train.batches(3, enlarged(1.5, 32))
    assert images.shape == (3, 192, 384, 3)
    assert truth["boxes"].shape == (3, 8, 4)
    # The person of 49 pixels is too small to train on; the big one is outside.
    assert truth["labels"].numpy().tolist() == [
        [1, -1, -1, -1, -1, -1, -1, 0],
        [0] * 8,
        [0] * 8,
    ]
    np.testing.assert_allclose(truth["boxes"][0, 0], [15, 7.5, 76.5, 157.5])
    np.testing.assert_allclose(truth["boxes"][0, 1], [0, 30, 19.5, 103.5])
    np.testing.assert_allclose(truth["scale"], [[1.5, 1.5]] * 3)
    assert truth["index"].numpy().tolist() == [0, 1, 2]


def test_training_batches_have_every_image_once_per_epoch(tmp_path):
    data = open_dataset(save_citypersons(tmp_path))
    transform = random_scale_crop_flip((64, 96))
    batches = data.train.training_batches(1, transform, 0, range(2))
    seen = [int(truth["index"][0]) for _, truth in batches]
    assert sorted(seen[:3]) == sorted(seen[3:]) == [0, 1, 2]
    assert all(image.shape == (1, 64, 96, 3) for image, _ in batches)


def test_ground_truth_equals_that_of_the_official_evaluation(tmp_path):
    data = open_dataset(save_citypersons(tmp_path))
    truth = data.test.ground_truth()
    assert len(truth["images"]) == 3
    ignored = [record["ignore"] for record in truth["annotations"]]
    assert ignored == [0, 0, 1, 1, 1, 1, 1, 0]
    # Neither counts as reasonable: one is half occluded, the other below 50 pixels.
    assert np.isnan(log_average_miss_rate(truth, [], "reasonable"))
    assert log_average_miss_rate(truth, [], "heavy") == 100
    # The official val_gt.json numbers images from 1.
    assert [record["id"] for record in truth["images"]] == [1, 2, 3]
    found = {"image_id": 1, "bbox": [10, 5, 41, 100], "score": 1.0}
    assert log_average_miss_rate(truth, [found], "heavy") == pytest.approx(50)


@pytest.mark.parametrize("folder", citypersons._JSON_FOLDERS)
def test_citypersons_json_files_equal_the_mat_files(tmp_path, folder):
    labels = (
        *("ignore", "pedestrian", "rider", "sitting person"),
        *("person (other)", "person group"),
    )
    objects = [
        {"label": labels[row[0]], "bbox": row[1:5], "bboxVis": row[6:], "instanceId": 1}
        for row in _ROWS
    ]
    for split in ("train", "val"):
        save_images(tmp_path / "leftImg8bit" / split / "aachen", [city_name(0)])
        name = city_name(0).replace("leftImg8bit.png", "gtBboxCityPersons.json")
        path = tmp_path / folder / split / "aachen" / name
        path.parent.mkdir(parents=True)
        content = {"imgHeight": 128, "imgWidth": 256, "objects": objects}
        path.write_text(json.dumps(content))
    mat = tmp_path / "mat"
    save_mat(mat, "train", [(_ROWS, "int16")])
    (expected,) = citypersons.read_mat(mat / "anno_train.mat")[1]
    (people,) = open_dataset(tmp_path).train.people
    np.testing.assert_array_equal(people.boxes, expected.boxes)
    np.testing.assert_array_equal(people.visibility, expected.visibility)
    np.testing.assert_array_equal(people.ignored, expected.ignored)


def annotation(box, image=1, **record):
    return {"image_id": image, "category_id": 1, "bbox": box, **record}


def save_coco(root, annotations, names=("a.png", "b.png"), splits=("train", "test")):
    images = [
        {"id": i, "file_name": name, "height": 128, "width": 256}
        for i, name in enumerate(names, start=1)
    ]
    for split in splits:
        save_images(root / split, names)
        content = {"images": images, "annotations": annotations}
        (root / f"pedestrians_{split}.json").write_text(json.dumps(content))
    return root


def test_coco_annotations_are_read(tmp_path):
    records = [
        annotation([10, 5, 20, 60]),
        annotation([10, 5, 20, 60], ignore=1, vis_ratio=0.5),
        annotation([10, 5, 20, 60], iscrowd=1),
        annotation([10, 5, 40, 60], image=2),
        annotation([10, 5, 40, 60], category_id=3),
    ]
    data = open_dataset(save_coco(tmp_path, records), min_height=12)
    first, second = data.train.people
    assert first.ignored.tolist() == [False, True, True]
    assert first.visibility.tolist() == [1, 0.5, 1]
    assert second.boxes.tolist() == [[10, 5, 40, 60]]
    assert second.ignored.tolist() == [False]
    data = open_dataset(tmp_path, min_height=12, group_aspect=0.5)
    assert data.test.people[1].ignored.tolist() == [True]
    assert data.test.people[0].ignored.tolist() == [False, True, True]


def test_boxes_of_zero_area_or_outside_are_omitted_and_logged(tmp_path, caplog):
    records = [
        annotation([10, 5, 20, 60]),
        annotation([10, 5, 0, 60]),
        annotation([10, 5, 20, 0], image=2),
        annotation([300, 5, 20, 60]),
        annotation([-20, 5, 20, 60]),
        annotation([-10, 5, 20, 60]),
    ]
    with caplog.at_level(logging.WARNING):
        _, people = coco.read(save_coco(tmp_path, records) / "pedestrians_train.json")
    assert people[0].boxes.tolist() == [[10, 5, 20, 60], [-10, 5, 20, 60]]
    assert "leaving out 4 boxes" in caplog.text
    assert "a.png" in caplog.text


def test_missing_and_broken_images_are_skipped(tmp_path):
    names = [f"{i}.png" for i in range(6)]
    save_coco(tmp_path, [annotation([10, 5, 20, 60])], names)
    (tmp_path / "train" / "2.png").unlink()
    (tmp_path / "train" / "4.png").write_bytes(b"no image")
    data = open_dataset(tmp_path)
    assert len(data.train) == 5
    batches = data.train.training_batches(
        5, random_scale_crop_flip((32, 32)), 0, range(1)
    )
    ((images, truth),) = batches
    assert len(images) == 5
    left = [name[-5:] for name in data.train.skipped]
    assert left == ["2.png", "4.png"]
    assert data.train.names[truth["index"][0]][-5:] not in left
    truth = data.train.ground_truth()
    assert [image["id"] for image in truth["images"]] == [1, 2, 4, 6]
    assert {person["image_id"] for person in truth["annotations"]} <= {1, 2, 4, 6}


def test_images_of_which_none_can_be_read_are_rejected_before_training(tmp_path):
    names = [f"{i}.png" for i in range(20)]
    save_coco(tmp_path, [annotation([10, 5, 20, 60])], names)
    for name in names:
        (tmp_path / "train" / name).write_bytes(b"no image")
    with pytest.raises(ValueError, match="8 of 20 images were tried, and none can be"):
        open_dataset(tmp_path)


def test_images_with_300_boxes_and_without_boxes(tmp_path):
    records = [annotation([i / 2 - 10, 5, 20, 60]) for i in range(300)]
    data = open_dataset(save_coco(tmp_path, records))
    ((_, truth),) = data.train.batches(2, enlarged(1, 32))
    assert truth["boxes"].shape == (2, 301, 4)
    assert (truth["labels"].numpy() == 1).sum(axis=1).tolist() == [300, 0]


@pytest.mark.parametrize(
    ("record", "rule"),
    [
        ({"image_id": 9, "bbox": [1, 1, 1, 1]}, '"image_id" of one of the images'),
        ({"image_id": 1}, '"bbox"'),
        ({"image_id": 1, "bbox": [1, 1, 1]}, '"bbox"'),
        ({"image_id": 1, "bbox": [1, 1, 1, 1], "ignore": "no"}, '"ignore"'),
        (7, "be a dictionary"),
    ],
)
def test_malformed_annotations_are_reported(tmp_path, record, rule):
    save_coco(tmp_path, [annotation([1, 1, 9, 60]), record])
    with pytest.raises(ValueError, match=rf"train\.json: annotations\[1\] must .*{rule}"):
        open_dataset(tmp_path)


def test_malformed_mat_files_are_reported(tmp_path):
    save_images(tmp_path / "leftImg8bit" / "train" / "aachen", [city_name(0)])
    (tmp_path / "anno_train.mat").write_bytes(b"no matlab file" * 20)
    with pytest.raises(ValueError, match=r"anno_train\.mat is not a MATLAB file"):
        open_dataset(tmp_path)
    scipy.io.savemat(tmp_path / "anno_train.mat", {"other": 1})
    with pytest.raises(ValueError, match=r"one variable anno_.*'other'"):
        open_dataset(tmp_path)
    save_mat(tmp_path, "train", [(_ROWS, "int16"), (_ROWS[:1] * 1, "int16")])
    content = scipy.io.loadmat(tmp_path / "anno_train.mat")
    content["anno_train_aligned"][0, 1]["bbs"][0, 0] = np.zeros((2, 7))
    scipy.io.savemat(
        tmp_path / "anno_train.mat",
        {"anno_train_aligned": content["anno_train_aligned"]},
    )
    with pytest.raises(ValueError, match=r"anno_train_aligned\[1\] must have"):
        open_dataset(tmp_path)


def test_errors_for_unknown_layouts_list_the_known_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be a folder.*CityPersons: .*COCO"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "things").mkdir()
    with pytest.raises(FileNotFoundError, match="known layout.*things.*CityPersons: "):
        open_dataset(tmp_path)
    save_coco(tmp_path, [], splits=("train",))
    with pytest.raises(FileNotFoundError, match="annotations of a test split"):
        open_dataset(tmp_path)
    for image in (tmp_path / "train").iterdir():
        image.unlink()
    (tmp_path / "test").mkdir()
    (tmp_path / "pedestrians_test.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="images must exist.* 2 names and none"):
        open_dataset(tmp_path)
