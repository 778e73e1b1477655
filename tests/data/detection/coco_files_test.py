"""Layouts that people's data in COCO's format have."""

import json
import logging

import pytest
from PIL import Image

from keras_hybrid.data.detection import coco_files
from keras_hybrid.data.detection.layouts import open_dataset

_HIDDEN = b"\0\x05\x16\x07\0\x02\0\0Mac OS X        " + bytes(40)


def save(root, json_file, image_file, file_name=None, box=(10, 10, 20, 60)):
    """One image with one person."""
    for file in (root / json_file, root / image_file):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 80)).save(root / image_file)
    name = file_name or image_file.rpartition("/")[2]
    record = {"image_id": 1, "category_id": 1, "bbox": box}
    content = {"images": [{"id": 1, "file_name": name}], "annotations": [record]}
    (root / json_file).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (("people_train.json", "train/a.png"), ("people_test.json", "test/a.png")),
        (("train.json", "train/a.png"), ("val.json", "val/a.png")),
        (("train.JSON", "images/a.png"), ("val.JSON", "images/b.png")),
        (("train.json", "a.png"), ("test.json", "b.png")),
        (
            ("annotations/instances_train2017.json", "train2017/a.png"),
            ("annotations/instances_val2017.json", "val2017/a.png"),
        ),
        (
            ("annotations/train.json", "train/a.png"),
            ("annotations/val.json", "val/a.png"),
        ),
        (
            ("annotations/instances_Train.json", "images/Train/a.png"),
            ("annotations/instances_Validation.json", "images/Validation/a.png"),
        ),
        (
            ("train/_annotations.coco.json", "train/a.png"),
            ("valid/_annotations.coco.json", "valid/a.png"),
        ),
        (
            ("train/labels.json", "train/data/a.png"),
            ("val/labels.json", "val/data/a.png"),
        ),
        (
            ("annotations/train/people.json", "images/train/a.png"),
            ("annotations/test/people.json", "images/test/a.png"),
        ),
        # "latest" has "test" in it.
        (("latest_train.json", "train/a.png"), ("latest_val.json", "val/a.png")),
    ],
)
def test_layouts(tmp_path, train, test):
    save(tmp_path, *train)
    save(tmp_path, *test, box=(10, 10, 20, 70))
    data = open_dataset(tmp_path)
    assert data.train.names == [str(tmp_path / train[1])]
    assert data.test.names == [str(tmp_path / test[1])]
    assert data.train.people[0].boxes.tolist() == [[10, 10, 20, 60]]
    assert data.test.people[0].boxes.tolist() == [[10, 10, 20, 70]]


@pytest.mark.parametrize(
    "other",
    [
        "captions_train2017.json",
        "person_keypoints_train2017.json",
        "panoptic_train2017.json",
        "a_train2017.json",
    ],
)
def test_instances_come_before_other_annotations(tmp_path, other):
    folder = tmp_path / "annotations"
    folder.mkdir()
    for name in (other, "instances_train2017.json"):
        (folder / name).write_text("{}")
    found = coco_files.annotations(tmp_path, "train")
    assert found == [folder / "instances_train2017.json"]


def test_files_without_annotations_are_none(tmp_path):
    """COCO's own test images have no annotations: its validation is for the test."""
    for split in ("train", "val"):
        save(tmp_path, f"annotations/instances_{split}2017.json", f"{split}2017/a.png")
    (tmp_path / "annotations" / "image_info_test2017.json").write_text('{"images": []}')
    assert open_dataset(tmp_path).test.names == [str(tmp_path / "val2017" / "a.png")]


def test_of_two_files_it_is_said_which_is_read(tmp_path, caplog):
    for name in ("b_train.json", "a_train.json", "a_test.json"):
        save(tmp_path, name, "images/a.png")
    with caplog.at_level(logging.WARNING):
        open_dataset(tmp_path)
    assert caplog.text.count("Reading ") == 1
    assert f"a_train.json, and not {tmp_path / 'b_train.json'}" in caplog.text


@pytest.mark.parametrize(
    "layout", [("people_{}.json", "{}/a.png"), ("{}/_annotations.coco.json", "{}/a.png")]
)
def test_hidden_files_are_nobodys(tmp_path, layout):
    """macOS leaves ._NAME beside each file on a foreign disk."""
    for split in ("train", "test"):
        files = [name.format(split) for name in layout]
        save(tmp_path, *files)
        for name in files:
            path = tmp_path / name
            path.with_name(f"._{path.name}").write_bytes(_HIDDEN)
    (tmp_path / ".train").mkdir()
    data = open_dataset(tmp_path)
    assert (len(data.train), len(data.test)) == (1, 1)


@pytest.mark.parametrize(
    "name",
    [
        "a.png",
        "city/a.png",
        "images/train/city/a.png",
        "..\\train\\city\\a.png",
        "city\\a.png",
        "C:\\Users\\me\\city\\a.png",
        "/home/me/data/train/city/a.png",
        "https://example.org/city/a.png",
    ],
)
def test_names_with_folders_and_of_other_machines(tmp_path, name):
    file = tmp_path / "train" / ("a.png" if name == "a.png" else "city/a.png")
    file.parent.mkdir(parents=True)
    file.touch()
    folders = coco_files.image_folders(tmp_path, "train")
    assert coco_files.image_file(folders, name).resolve() == file


def test_names_of_no_file_are_within_the_folder(tmp_path):
    (tmp_path / "train").mkdir()
    folders = coco_files.image_folders(tmp_path, "train")
    assert coco_files.image_file(folders, "b/c.png") == tmp_path / "train" / "b" / "c.png"


def test_as_much_of_a_name_counts_as_leads_to_a_file(tmp_path):
    for name in ("a.png", "one/a.png", "two/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = coco_files.image_file([tmp_path], "D:\\all\\two\\a.png")
    assert found == tmp_path / "two" / "a.png"
