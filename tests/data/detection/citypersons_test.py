"""CityPersons files: hidden copies, invalid boxes and damaged downloads."""

import json
import logging
import zlib

import numpy as np
import pytest
import scipy.io
from PIL import Image
from scipy.io.matlab import MatReadError

from keras_hybrid.data.detection import citypersons
from keras_hybrid.data.detection.layouts import open_dataset

_PERSON = {"label": "pedestrian", "bbox": [5, 2, 10, 25], "bboxVis": [5, 2, 5, 25]}
_ROWS = [[1, 5, 2, 10, 25, 24000, 5, 2, 5, 25]]
_HIDDEN = b"\0\x05\x16\x07\0\x02\0\0Mac OS X        " + bytes(40)


def save_json(root, objects, count=2):
    for split in ("train", "val"):
        for k in range(count):
            name = f"aachen/aachen_{k:06}_000019_"
            image = root / "leftImg8bit" / split / f"{name}leftImg8bit.png"
            file = root / "gtBboxCityPersons" / split / f"{name}gtBboxCityPersons.json"
            for path in (image, file):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 32)).save(image)
            content = {"imgHeight": 32, "imgWidth": 64, "objects": objects}
            file.write_text(json.dumps(content))
            yield from (image, file)


def mat_bytes(path, rows=_ROWS):
    entry = np.zeros((1, 1), [("cityname", "O"), ("im_name", "O"), ("bbs", "O")])
    entry[0, 0] = ("aachen", "a.png", np.array(rows, "float64"))
    cells = np.empty((1, 1), "O")
    cells[0, 0] = entry
    scipy.io.savemat(path, {"anno_train_aligned": cells}, do_compression=True)
    return path.read_bytes()


def test_hidden_files_are_ignored(tmp_path):
    for path in save_json(tmp_path, [_PERSON]):
        path.with_name(f"._{path.name}").write_bytes(_HIDDEN)
        copies = path.parents[1] / ".ipynb_checkpoints"
        copies.mkdir(exist_ok=True)
        (copies / path.name).write_bytes(path.read_bytes())
    data = open_dataset(tmp_path, 10)
    assert (len(data.train), len(data.test)) == (2, 2)


def test_a_hidden_mat_file_is_ignored(tmp_path):
    (tmp_path / "annotations").mkdir()
    mat_bytes(tmp_path / "annotations" / "anno_train.mat")
    (tmp_path / "annotations" / "._anno_train.mat").write_bytes(_HIDDEN)
    found = citypersons._annotations(tmp_path, "train")
    assert found == tmp_path / "annotations" / "anno_train.mat"


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    for path in save_json(tmp_path, [_PERSON]):
        if path.suffix == ".json":
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert open_dataset(tmp_path, 10).train.people[0].visibility.tolist() == [0.5]


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": None},
        {"bbox": []},
        {"bbox": [5, 2, -10, 25]},
        {"bbox": [5, 2, 0, 25]},
        {"bboxVis": None},
    ],
)
def test_an_invalid_json_box_is_omitted_and_logged(tmp_path, caplog, change):
    list(save_json(tmp_path, [_PERSON, {**_PERSON, **change}]))
    with caplog.at_level(logging.WARNING):
        data = open_dataset(tmp_path, 10)
    assert data.train.people[0].boxes.tolist() == [[5, 2, 10, 25]]
    warning = "_gtBboxCityPersons.json: leaving out 1 boxes without an area, such as "
    assert f"{warning}objects[1]" in caplog.text


def test_invalid_boxes_in_a_mat_file_are_omitted_and_logged(tmp_path, caplog):
    rows = [[1, 5, 2, -10, 25, 1, 5, 2, 5, 25], [1, np.nan, 2, 9, 25, 1, 5, 2, 5, 25]]
    mat_bytes(tmp_path / "anno_train.mat", [*_ROWS, *rows])
    with caplog.at_level(logging.WARNING):
        _, (people,) = citypersons.read_mat(tmp_path / "anno_train.mat")
    assert people.boxes.tolist() == [[5, 2, 10, 25]]
    warning = "leaving out 2 boxes without an area, such as anno_train_aligned[0].bbs[1]"
    assert warning in caplog.text


def test_ids_are_those_of_the_official_ground_truth(tmp_path):
    """Ids count from 1 in the order of the split and include missing images."""
    paths = list(save_json(tmp_path, [_PERSON], count=3))
    assert paths[8].match("val/aachen/aachen_000001*.png")
    paths[8].unlink()
    test = open_dataset(tmp_path, 10).test
    found = [{"image_id": i, "bbox": [1, 1, 9, 9], "score": 0.5} for i in range(2)]
    assert [one["image_id"] for one in test.with_given_ids(found)] == [1, 3]


def test_data_without_pedestrians_is_rejected(tmp_path):
    list(save_json(tmp_path, [{**_PERSON, "label": "rider"}]))
    with pytest.raises(
        ValueError, match="2 images of .* with 2 boxes.* all of them ignor"
    ):
        open_dataset(tmp_path)


def test_a_category_argument_is_rejected(tmp_path):
    list(save_json(tmp_path, [_PERSON]))
    with pytest.raises(ValueError, match="`category` must be None.*category=rider"):
        open_dataset(tmp_path, category="rider")


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda whole: whole[:-20], Exception),
        (lambda whole: whole[:60], IndexError),
        (lambda whole: whole[:200] + bytes(8) + whole[208:], zlib.error),
        (lambda whole: b"", MatReadError),
        (lambda whole: bytes(5000), MatReadError),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\n", IndexError),
        (lambda whole: b"<!DOCTYPE html><html>" + b" " * 200, ValueError),
        (lambda whole: b"PK\x03\x04" + bytes(300), Exception),
        # The header of version 7.3, an HDF5 file.
        (
            lambda whole: b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + whole[128:],
            NotImplementedError,
        ),
    ],
)
def test_damaged_mat_files_are_reported_in_one_line(tmp_path, damage, kind):
    path = tmp_path / "anno_train.mat"
    path.write_bytes(damage(mat_bytes(path)))
    with pytest.raises(kind):
        scipy.io.loadmat(path)
    with pytest.raises(
        ValueError, match=r"^.*anno_train\.mat is not a MATLAB file.*-v7$"
    ):
        citypersons.read_mat(path)
