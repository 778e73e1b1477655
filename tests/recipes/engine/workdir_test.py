"""Recognition of a run in its workdir, and the files that are written there."""

import dataclasses
import json
import locale
import math
import shutil

import pytest

from keras_hybrid.recipes import imagenet
from keras_hybrid.recipes.engine import workdir

RESULTS = {"top1": 50.0}


def finished(config):
    """Create the workdir of a finished run and return it."""
    directory = workdir.create(config)
    workdir.write_results(config, RESULTS)
    return directory


def found(config):
    """Results of a finished run, as a recipe looks them up before it starts."""
    workdir.check(config)
    return workdir.results_of(config)


@pytest.mark.parametrize("name", ["runs/a/", "./runs/a", "runs/../runs/a", "absolute"])
def test_a_run_is_found_by_any_spelling_of_its_workdir(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished(imagenet.Config(workdir="runs/a"))
    name = str(tmp_path / "runs/a") if name == "absolute" else name
    assert found(imagenet.Config(workdir=name)) == RESULTS
    workdir.check(imagenet.Config(workdir=name))


def test_a_run_is_found_after_its_workdir_was_moved(tmp_path):
    directory = finished(imagenet.Config(workdir=str(tmp_path / "a")))
    shutil.move(directory, tmp_path / "b")
    assert found(imagenet.Config(workdir=str(tmp_path / "b"))) == RESULTS


def test_a_tilde_in_workdir_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    finished(imagenet.Config(workdir="~/a"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert found(imagenet.Config(workdir="~/a")) == RESULTS


def test_file_flags_are_compared_by_the_files_they_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "teacher.keras").touch()
    (tmp_path / "link.keras").symlink_to("teacher.keras")
    first = imagenet.Config(workdir="a", data_dir="data", teacher="teacher.keras")
    finished(first)
    for changes in (
        {"data_dir": "data/", "teacher": "./teacher.keras"},
        {"data_dir": str(tmp_path / "data"), "teacher": "link.keras"},
    ):
        assert found(dataclasses.replace(first, **changes)) == RESULTS
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="--data_dir=data there and other now"):
        found(dataclasses.replace(first, data_dir="other"))
    with pytest.raises(ValueError, match="--data_dir=data there and missing now"):
        found(dataclasses.replace(first, data_dir="missing"))


def test_no_folder_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = imagenet.Config(workdir="a", data_dir=".")
    finished(first)
    with pytest.raises(ValueError, match="--data_dir=. there and  now"):
        found(dataclasses.replace(first, data_dir=""))


@pytest.mark.parametrize("name", ["a*", "a?", "seed[1]", "a\\b"])
def test_a_workdir_that_tensorflow_takes_for_a_pattern_is_rejected(name, tmp_path):
    for check in (workdir.check, workdir.check_for_several):
        with pytest.raises(ValueError, match="--workdir must be a path without"):
            check(imagenet.Config(workdir=str(tmp_path / name / "run")))


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (["cat", "dog"], None),
        (["dog", "cat"], "whose class 0 of 2 is dog, and .* class 0 of 2 is cat"),
        (["cat", "dog", "emu"], "class 2 of 3 is emu, and .* class 2 of 2 is None"),
        (["cat"], "whose class 1 of 1 is None, and .* class 1 of 2 is dog"),
    ],
)
def test_a_finished_run_keeps_its_classes(now, message, tmp_path):
    config = imagenet.Config(workdir=str(tmp_path))
    workdir.create(config)
    workdir.write_results(config, {"class_names": ["cat", "dog"]})
    if message is None:
        workdir.check_classes(config, now)
        return
    with pytest.raises(ValueError, match=message):
        workdir.check_classes(config, now)


def test_flags_newer_than_the_run_take_their_defaults(tmp_path):
    config = imagenet.Config(workdir=str(tmp_path))
    directory = finished(config)
    older = dataclasses.asdict(config)
    del older["weight_decay"]
    workdir.write_json(directory / "config.json", older)
    assert found(config) == RESULTS
    changed = dataclasses.replace(config, weight_decay=0.5)
    with pytest.raises(ValueError, match="--weight_decay=0.0001 there and 0.5 now"):
        found(changed)
    workdir.write_json(directory / "config.json", {**older, "gone": 1})
    with pytest.raises(ValueError, match="--gone=1 there and None now"):
        found(config)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"epochs": "many"}'])
def test_a_workdir_without_a_valid_config_is_rejected(content, tmp_path):
    (tmp_path / "results.json").write_text("{}")
    if content:
        (tmp_path / "config.json").write_text(content)
    config = imagenet.Config(workdir=str(tmp_path))
    with pytest.raises(
        ValueError, match="--workdir must be a new .*config.json"
    ) as error:
        found(config)
    assert "\n" not in str(error.value)


def test_nan_and_infinity_are_written_as_null(tmp_path):
    values = {"iou": {"b": math.nan, "a": 1.5}, "boxes": [(math.inf, 2), -math.inf, None]}
    workdir.write_json(tmp_path / "a.json", values)
    text = (tmp_path / "a.json").read_text()
    assert not {"NaN", "Infinity"} & set(text.replace(",", " ").split())
    expected = {"iou": {"b": None, "a": 1.5}, "boxes": [[None, 2], None, None]}
    assert json.loads(text) == expected
    assert list(json.loads(text)["iou"]) == ["b", "a"]
    config = imagenet.Config(workdir=str(tmp_path))
    assert workdir.write_results(config, values) == expected


def test_nan_in_results_of_older_versions_is_read_as_none(tmp_path):
    config = imagenet.Config(workdir=str(tmp_path))
    directory = finished(config)
    (directory / "results.json").write_text('{"miou": NaN}')
    assert found(config) == {"miou": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": math.nan}, "--learning_rate must be above 0"),
        ({"learning_rate": math.inf}, "--learning_rate must be finite"),
        ({"weight_decay": -1.0}, "--weight_decay must be at least 0"),
    ],
)
def test_invalid_numbers_in_flags_are_rejected(changes, message):
    with pytest.raises(ValueError, match=message):
        imagenet.Config(**changes)


@pytest.fixture(params=["", "C"])
def any_locale(request):
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, request.param)
    yield
    locale.setlocale(locale.LC_CTYPE, before)


@pytest.mark.usefixtures("any_locale")
def test_labels_are_written_one_per_line(tmp_path):
    workdir.write_labels(tmp_path / "labels.txt", ["road", "", "grün"])
    assert (tmp_path / "labels.txt").read_bytes() == "road\n\ngrün\n".encode()
