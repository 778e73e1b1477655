"""Folder layouts of data in COCO format."""

import json
import logging
import os

import pytest
from PIL import Image

from keras_hybrid.data.detection import coco_files
from keras_hybrid.data.detection.layouts import open_dataset

NOT_UTF_8 = os.fsdecode(b"caf\xe9.png")
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
        (("train.json", f"train/{NOT_UTF_8}"), ("val.json", "val/a.png")),
        # The name "latest" contains "test".
        (("latest_train.json", "train/a.png"), ("latest_val.json", "val/a.png")),
    ],
)
def test_common_layouts_are_recognised(tmp_path, train, test):
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
def test_instance_annotations_take_precedence(tmp_path, other):
    folder = tmp_path / "annotations"
    folder.mkdir()
    for name in (other, "instances_train2017.json"):
        (folder / name).write_text("{}")
    found = coco_files.annotations(tmp_path, "train")
    assert found == [folder / "instances_train2017.json"]


def test_json_files_without_annotations_are_ignored(tmp_path):
    """COCO's test images have no annotations, so its validation images are used."""
    for split in ("train", "val"):
        save(tmp_path, f"annotations/instances_{split}2017.json", f"{split}2017/a.png")
    (tmp_path / "annotations" / "image_info_test2017.json").write_text('{"images": []}')
    assert open_dataset(tmp_path).test.names == [str(tmp_path / "val2017" / "a.png")]


def test_the_chosen_one_of_two_files_is_logged(tmp_path, caplog):
    for name in ("b_train.json", "a_train.json", "a_test.json"):
        save(tmp_path, name, "images/a.png")
    with caplog.at_level(logging.WARNING):
        open_dataset(tmp_path)
    assert caplog.text.count("Reading ") == 1
    assert f"a_train.json, and not {tmp_path / 'b_train.json'}" in caplog.text


@pytest.mark.parametrize(
    "layout", [("people_{}.json", "{}/a.png"), ("{}/_annotations.coco.json", "{}/a.png")]
)
def test_hidden_files_are_ignored(tmp_path, layout):
    """macOS writes a file ._NAME beside each file on other file systems."""
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
def test_image_names_with_folders_or_foreign_absolute_paths(tmp_path, name):
    file = tmp_path / "train" / ("a.png" if name == "a.png" else "city/a.png")
    file.parent.mkdir(parents=True)
    file.touch()
    folders = coco_files.image_folders(tmp_path, "train")
    assert coco_files.image_file(folders, name).resolve() == file


def test_a_missing_image_resolves_to_the_split_folder(tmp_path):
    (tmp_path / "train").mkdir()
    folders = coco_files.image_folders(tmp_path, "train")
    assert coco_files.image_file(folders, "b/c.png") == tmp_path / "train" / "b" / "c.png"


def test_the_longest_matching_part_of_an_image_name_is_used(tmp_path):
    for name in ("a.png", "one/a.png", "two/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = coco_files.image_file([tmp_path], "D:\\all\\two\\a.png")
    assert found == tmp_path / "two" / "a.png"
