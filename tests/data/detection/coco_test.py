"""COCO files with unusual ids, categories, image sizes and annotations."""

import contextlib
import io
import json
import logging
import math

import numpy as np
import pytest
from PIL import ExifTags, Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from keras_hybrid.data.detection import coco
from keras_hybrid.data.detection.layouts import open_dataset
from keras_hybrid.metrics import log_average_miss_rate

_BOX = [10, 10, 20, 60]


def image(image_id=1, name="a.png", **record):
    return {"id": image_id, "file_name": name, **record}


def annotation(image_id=1, box=_BOX, **record):
    return {"image_id": image_id, "category_id": 1, "bbox": box, **record}


def save(root, images, annotations, **content):
    file = root / "people_train.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, **content}))
    return file


def boxes_of(root, images, annotations, **content):
    names, people = coco.read(save(root, images, annotations, **content))
    return {name: of_image.boxes.tolist() for name, of_image in zip(names, people)}


@pytest.fixture
def folder(tmp_path):
    """Three images per split, 80 pixels high and 100 wide."""
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for name in ("a.png", "b.png", "c.png"):
            Image.new("RGB", (100, 80), (9, 9, 9)).save(tmp_path / split / name)
    return tmp_path


def average_precision(truth_file, detections):
    """AP at an IoU of 0.5, computed by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_file))
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[1]


@pytest.mark.parametrize(
    "ids", [[101, 205, 307], [1, 2, 3], [307, 101, 205], [2.0, 7.0, 1.0], ["x", "b", "m"]]
)
@pytest.mark.parametrize("missing", [(), ("a.png",)])
def test_detections_get_the_image_and_category_ids_of_the_file(folder, ids, missing):
    """Each image has one box, and pycocotools matches every detection to its own."""
    images = [image(i, name) for i, name in zip(ids, ("a.png", "b.png", "c.png"))]
    boxes = [[10 + 30 * k, 10, 20, 60] for k in range(3)]
    records = [
        {**annotation(i, box), "id": k + 1, "category_id": 3, "area": 1200, "iscrowd": 0}
        for k, (i, box) in enumerate(zip(ids, boxes))
    ]
    categories = [{"id": 1, "name": "car"}, {"id": 3, "name": "person"}]
    save(folder, images, records, categories=categories)
    truth_file = folder / "people_test.json"
    truth_file.write_text((folder / "people_train.json").read_text())
    for name in missing:
        (folder / "test" / name).unlink()
    test = open_dataset(folder).test
    found = test.with_given_ids(
        [
            {"image_id": index, "category_id": 1, "bbox": box.tolist(), "score": 0.9}
            for index, of_image in enumerate(test.people)
            for box in of_image.boxes
        ]
    )
    assert {one["category_id"] for one in found} == {3}
    expected = ids[len(missing) :]
    assert sorted(one["image_id"] for one in found) == sorted(expected)
    in_file = json.loads(json.dumps(found))
    share = len(expected) / 3
    # COCO averages precision over 101 recall levels, of which 67 are at most 2/3.
    precision = 1 if share == 1 else 67 / 101
    assert average_precision(truth_file, in_file) == pytest.approx(precision)
    missed = log_average_miss_rate(truth_file, in_file, category_id=3)
    assert missed == pytest.approx(100 * (1 - share))
    assert log_average_miss_rate(test.ground_truth(), in_file, category_id=3) == 0


@pytest.mark.parametrize(
    ("categories", "person", "other"),
    [
        ([{"id": 1, "name": "bicycle"}, {"id": 2, "name": "person"}], 2, 1),
        ([{"id": 0, "name": "person"}, {"id": 1, "name": "car"}], 0, 1),
        ([{"id": 0, "name": "person"}], 0, 1),
        ([{"id": "1", "name": "Pedestrian"}, {"id": "2", "name": "car"}], "1", "2"),
        ([{"id": 1, "name": "person"}, {"id": 2, "name": "car"}], 1.0, 2.0),
        ([{"id": 1, "name": "person"}], "1", "2"),
        ([], 1, 2),
    ],
)
def test_people_are_found_by_category_name(tmp_path, categories, person, other):
    records = [
        {**annotation(), "category_id": other, "bbox": [0, 0, 60, 30]},
        {**annotation(), "category_id": person},
    ]
    found = boxes_of(tmp_path, [image()], records, categories=categories)
    assert found == {"a.png": [_BOX]}


def test_category_id_is_optional_with_a_single_category(tmp_path):
    record = {"image_id": 1, "bbox": _BOX}
    one = [{"id": 3, "name": "person"}]
    assert boxes_of(tmp_path, [image()], [record]) == {"a.png": [_BOX]}
    assert boxes_of(tmp_path, [image()], [record], categories=one) == {"a.png": [_BOX]}
    several = [*one, {"id": 4, "name": "car"}]
    with pytest.raises(ValueError, match=r'annotations\[0\] must have .*"category_id"'):
        boxes_of(tmp_path, [image()], [record], categories=several)


def test_ambiguous_categories_are_rejected_unless_one_is_chosen(folder):
    categories = [{"id": 4, "name": "walker"}, {"id": 5, "name": "tree"}]
    file = save(folder, [image()], [annotation(category_id=4)], categories=categories)
    (folder / "people_test.json").write_text(file.read_text())
    with pytest.raises(ValueError, match=r"people_train\.json .*4 walker, 5 tree.*--cat"):
        open_dataset(folder)
    data = open_dataset(folder, category="walker")
    assert data.train.people[0].boxes.tolist() == [_BOX]
    assert data.test.category_id == 4


@pytest.mark.parametrize(
    "size",
    [
        {},
        {"width": -1, "height": -1},
        {"width": 0, "height": 0},
        {"width": None, "height": None},
        {"width": "100", "height": "80"},
        {"height": 80},
        {"width": 100},
        {"width": math.nan, "height": math.nan},
        {"width": 80, "height": 100},
        {"width": 10, "height": 8},
        {"width": 100.0, "height": 80.0},
        {"width": 100, "height": 80},
    ],
)
def test_image_size_is_read_from_the_image_file(folder, size, caplog):
    """The image is 80 x 100 pixels, whatever the JSON file says; one box is outside."""
    inside = [[5, 5, 20, 50], [85, 2, 10, 70], [40, 78, 15, 60]]
    records = [annotation(box=box) for box in (*inside, [5, 85, 20, 50])]
    file = save(folder, [image(**size)], records)
    (folder / "people_test.json").write_text(file.read_text())
    with caplog.at_level(logging.WARNING):
        data = open_dataset(folder)
    assert data.train.people[0].boxes.tolist() == inside
    assert "leaving out 1 boxes" in caplog.text
    assert "annotations[3] of a.png" in caplog.text


@pytest.mark.parametrize("size", [{"width": 80, "height": 100}, {"width": -1}, {}])
def test_a_missing_image_may_have_its_width_and_height_swapped(tmp_path, size):
    boxes = [[85, 2, 10, 70], [5, 85, 20, 50]]
    found = boxes_of(tmp_path, [image(**size)], [annotation(box=box) for box in boxes])
    assert found == {"a.png": boxes}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_image_size_is_that_after_exif_rotation(tmp_path, suffix):
    """Stored as 80 x 100 and rotated by EXIF; the JSON file has the stored size."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (100, 80)).save(tmp_path / f"a.{suffix}", exif=exif)
    boxes = [[10, 85, 20, 10], [85, 10, 10, 60]]
    record = image(name=f"a.{suffix}", width=100, height=80)
    found = boxes_of(tmp_path, [record], [annotation(box=box) for box in boxes])
    assert found == {f"a.{suffix}": [[10, 85, 20, 10]]}


def test_ids_as_strings_and_numbers_are_equal(tmp_path):
    images = [image("1"), image(2, "b.png")]
    found = boxes_of(tmp_path, images, [annotation(1), annotation("2")])
    assert found == {"a.png": [_BOX], "b.png": [_BOX]}
    with pytest.raises(ValueError, match=r"images\[1\] must have an .id. of its own"):
        boxes_of(tmp_path, [image(1), image("1", "b.png")], [])


def test_two_images_with_one_id_are_rejected(tmp_path):
    twice = [image(1, "a.png"), image(2, "c.png"), image(1.0, "b.png")]
    message = r"""images\[2\] must have an "id" of its own, not that of 'a\.png'"""
    with pytest.raises(ValueError, match=rf"people_train\.json: {message}"):
        boxes_of(tmp_path, twice, [annotation()])
    with pytest.raises(ValueError, match=message):
        log_average_miss_rate(tmp_path / "people_train.json", [])


def test_an_image_listed_twice_counts_once(tmp_path):
    found = boxes_of(tmp_path, [image(), image(width=3)], [annotation()])
    assert found == {"a.png": [_BOX]}
    truth = {"images": [{"id": 1}, {"id": 1}], "annotations": [annotation()]}
    assert log_average_miss_rate(truth, []) == 100


@pytest.mark.parametrize(
    "record",
    [
        annotation(box=None),
        annotation(box=[]),
        annotation(box=[10, 10, -20, 60]),
        annotation(box=[10, 10, 20, -60]),
        annotation(box=[None] * 4),
        annotation(box=[10, 10, math.nan, 60]),
        annotation(image_id=None),
        annotation(image_id=math.nan),
        annotation(image_id=1.5),
        annotation(category_id=None),
    ],
)
def test_unusable_annotations_are_omitted_and_logged(tmp_path, caplog, record):
    records = [annotation(), record, annotation(image_id=2.0), record]
    with caplog.at_level(logging.WARNING):
        found = boxes_of(tmp_path, [image(), image(2, "b.png")], records)
    assert found == {"a.png": [_BOX], "b.png": [_BOX]}
    assert "people_train.json: leaving out 2 boxes" in caplog.text
    assert "annotations[1]" in caplog.text


@pytest.mark.parametrize("box", [None, [], [10, 10, -20, 60]])
def test_miss_rate_omits_invalid_boxes(tmp_path, caplog, box):
    file = save(tmp_path, [image()], [annotation(), annotation(box=box, height=60)])
    found = [{"image_id": 1, "bbox": _BOX, "score": 0.5}]
    with caplog.at_level(logging.WARNING):
        assert log_average_miss_rate(file, found) == 0
    assert "leaving out 1 boxes" in caplog.text
    assert "annotations[1]" in caplog.text


def test_images_without_an_id_are_omitted_and_logged(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = boxes_of(tmp_path, [image(None, "b.png"), image()], [annotation()])
    assert found == {"a.png": [_BOX]}
    assert "leaving out 1 images without an id, such as images[0]" in caplog.text


def test_hidden_images_are_omitted_and_logged(tmp_path, caplog):
    images = [image(1, "train/._a.png"), image(2, "b.png")]
    with caplog.at_level(logging.WARNING):
        found = boxes_of(tmp_path, images, [annotation(), annotation(2)])
    assert found == {"b.png": [_BOX]}
    assert "1 images that are hidden files, such as train/._a.png" in caplog.text


def test_null_flags_take_their_defaults(tmp_path):
    record = annotation(iscrowd=None, ignore=None, vis_ratio=None)
    (people,) = coco.read(save(tmp_path, [image()], [record]))[1]
    assert not people.ignored.any()
    np.testing.assert_array_equal(people.visibility, [1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"must be a dictionary.*Received: list"),
        ({"images": [], "annotations": None}, "with lists of records"),
        ({"info": {}, "licenses": []}, "Received: dict with 'info', 'licenses'"),
        ({"images": [{"id": 1}], "annotations": []}, r'images\[0\] must .*"file_name"'),
        ({"images": [image(name="")], "annotations": []}, r"images\[0\] must"),
        ({"images": {"a.png": {}}, "annotations": []}, "with lists of records"),
        ({"images": ["a.png"], "annotations": []}, r"images\[0\] must be a dictionary"),
    ],
)
def test_json_of_another_structure_is_reported_in_one_line(tmp_path, content, message):
    file = tmp_path / "people_train.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"^.*people_train\.json.*{message}.*$"):
        coco.read(file)


def test_two_image_names_that_resolve_to_one_file_are_rejected(folder):
    """A tool may have merged the images of several folders into one."""
    images = [image(1, "left/a.png"), image(2, "right/a.png")]
    file = save(folder, images, [annotation()])
    (folder / "people_test.json").write_text(file.read_text())
    with pytest.raises(ValueError, match="Received: 'left/a.png' and 'right/a.png'"):
        open_dataset(folder)


def test_test_data_without_people_triggers_a_warning(folder, caplog):
    """Only the training file says that people are category 3."""
    people, categories = [annotation(category_id=3)], [{"id": 3, "name": "person"}]
    file = save(folder, [image()], people)
    file.rename(folder / "people_test.json")
    save(folder, [image()], people, categories=categories)
    with caplog.at_level(logging.WARNING):
        open_dataset(folder)
    assert "have 0 boxes of category 1, all of them ignored" in caplog.text


@pytest.mark.parametrize(
    "annotations",
    [[], [annotation(category_id=0)], [annotation(ignore=1)], [annotation(box=None)]],
)
def test_training_data_without_people_is_rejected(folder, annotations):
    file = save(folder, [image(), image(2, "b.png")], annotations)
    (folder / "people_test.json").write_text(file.read_text())
    with pytest.raises(
        ValueError, match="training images must have boxes.*: 2 images of"
    ):
        open_dataset(folder)
