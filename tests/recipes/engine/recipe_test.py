"""What a run refuses, repeated parts of a finished run, and sweeps."""

import dataclasses
import inspect
import itertools
import json
import pathlib
import shutil

import pytest
from PIL import Image

from keras_hybrid.recipes import citypersons, cityscapes, imagenet
from keras_hybrid.recipes.engine import run, settings, workdir
from runs import config

RECIPES = imagenet, cityscapes, citypersons


@pytest.fixture
def finished(files, tmp_path, eager):
    """The config of a finished run, and its results."""
    done = config(files, tmp_path / "run")
    return done, imagenet.main(done)


def read(directory, name):
    return json.loads((directory / name).read_text())


def test_an_export_is_added_to_a_finished_run_without_training(
    finished, tmp_path, monkeypatch
):
    done, results = finished
    monkeypatch.setattr(run, "fit", None)
    monkeypatch.setattr(imagenet.RECIPE.__class__, "prepare", None)
    more = imagenet.main(dataclasses.replace(done, export="tflite"))
    assert (tmp_path / "run" / "student.tflite").exists()
    added = "tflite_bytes", "tflite_max_abs_error", "tflite_top1"
    assert more == {**results, **{name: more[name] for name in added}}
    assert more["tflite_top1"] == pytest.approx(results["top1"], abs=0.1)
    assert read(tmp_path / "run", "results.json") == more
    assert read(tmp_path / "run", "config.json")["export"] == "tflite"
    # Formats accumulate, and a command without formats returns the finished run.
    imagenet.main(dataclasses.replace(done, export="saved_model"))
    assert (tmp_path / "run" / "saved_model").is_dir()
    assert read(tmp_path / "run", "config.json")["export"] == "tflite,saved_model"
    kept = read(tmp_path / "run", "results.json")
    monkeypatch.setattr(imagenet.RECIPE.__class__, "finish", None)
    assert imagenet.main(done) == kept


@pytest.mark.parametrize("before", ["", "saved_model"])
def test_an_export_that_fails_keeps_the_evaluation(
    before, files, tmp_path, eager, monkeypatch
):
    """The same command then exports, without evaluating again."""
    settings = config(files, tmp_path / "run", export=before)
    if before:
        imagenet.main(settings)
        settings = dataclasses.replace(settings, redo="evaluate")
    settings = dataclasses.replace(settings, export="tflite")
    with monkeypatch.context() as patch:
        patch.setattr(run, "export", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            imagenet.main(settings)
    assert read(tmp_path / "run", "results.json")["top1"] >= 0
    assert read(tmp_path / "run", "config.json")["export"] == before
    recipe = dataclasses.replace(imagenet.RECIPE, evaluate=None)
    results = recipe.main(dataclasses.replace(settings, redo=""))
    assert results["tflite_top1"] == pytest.approx(results["top1"], abs=0.1)


def test_a_finished_run_is_not_exported_with_the_classes_of_other_data(
    finished, files, tmp_path
):
    done, results = finished
    workdir.write_results(done, {**results, "class_names": ["a", "b", "c", "d"]})
    with pytest.raises(ValueError, match="--data_dir must hold the classes of the run"):
        imagenet.main(dataclasses.replace(done, export="tflite"))


def test_redo_evaluate_repeats_the_evaluation(finished, tmp_path, monkeypatch):
    done, results = finished
    directory = tmp_path / "run"
    wrong = {**results, "top1": -1.0, "tflite_top1": 7.0}
    workdir.write_results(done, wrong)
    monkeypatch.setattr(run, "fit", None)
    again = imagenet.main(dataclasses.replace(done, redo="evaluate"))
    assert again == {**results, "tflite_top1": 7.0}
    assert read(directory, "config.json")["redo"] == ""


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, []),
        ({"redo": "evaluate"}, ["evaluate"]),
        ({"redo": "export"}, ["export"]),
        ({"redo": "export,evaluate"}, ["evaluate", "export"]),
        ({"also_evaluate": "elsewhere"}, ["evaluate"]),
        ({"export_label_map": True}, ["export"]),
        ({"export": "tflite,saved_model"}, ["export"]),
    ],
)
def test_parts_to_do_after_a_finished_run(changes, parts, tmp_path):
    done = cityscapes.Config(workdir=str(tmp_path), export="tflite")
    directory = workdir.create(done)
    workdir.write_results(done, {})
    for name in ("student.keras", "metrics.csv"):
        (directory / name).touch()
    now = dataclasses.replace(done, **changes)
    workdir.check(now)
    assert workdir.parts_to_do(workdir.with_earlier_exports(now)) == parts


def test_redo_export_needs_an_export_format(finished):
    done, _ = finished
    with pytest.raises(ValueError, match="--redo must be evaluate for a run without"):
        imagenet.main(dataclasses.replace(done, redo="export"))


def test_redo_needs_a_finished_run(files, tmp_path):
    new = config(files, tmp_path / "new", redo="evaluate")
    with pytest.raises(ValueError, match="--redo must be left out with --workdir=.*/new"):
        imagenet.main(new)
    assert not (tmp_path / "new").exists()


def test_redo_of_several_runs_needs_all_of_them(finished, tmp_path):
    """Nothing is evaluated if one has not finished, whichever it is."""
    done, _ = finished
    several = dataclasses.replace(done, workdir=str(tmp_path / "all"), balance="1,2")
    first = next(iter(settings.runs_of(several).values()))
    shutil.copytree(done.workdir, first.workdir)
    text = json.dumps(dataclasses.asdict(first))
    (pathlib.Path(first.workdir) / "config.json").write_text(text)
    again = dataclasses.replace(several, redo="evaluate")
    with pytest.raises(ValueError, match="--redo must be left out with --workdir=.*2,"):
        imagenet.RECIPE.start(again)


def test_adding_an_export_needs_the_student_file(finished, tmp_path):
    done, _ = finished
    (tmp_path / "run" / "student.keras").unlink()
    with pytest.raises(FileNotFoundError, match="must hold the student.keras .* export"):
        imagenet.main(dataclasses.replace(done, export="tflite"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"student.keras": "not a model"}, "student.keras, for which Keras reports"),
        ({"metrics.csv": None}, "must hold the metrics.csv of the run to evaluate"),
        ({"results.json": "{"}, "whose results.json cannot be read"),
    ],
)
def test_a_damaged_run_is_refused_before_it_is_evaluated(
    finished, tmp_path, damage, message
):
    done, _ = finished
    for name, content in damage.items():
        path = tmp_path / "run" / name
        path.unlink()
        if content:
            path.write_text(content)
    with pytest.raises((ValueError, OSError), match=message):
        imagenet.RECIPE.start(dataclasses.replace(done, redo="evaluate"))


def test_a_list_of_methods_and_balances_runs_a_sweep(files, tmp_path, eager, rendering):
    lists = {"method": "none,at,hybrid", "balance": "0.5,dynamic", "method_weight": 3.0}
    several = config(files, tmp_path / "all", epochs=1, **lists)
    results = imagenet.main(several)
    names = ["none", "at", "hybrid 0.5", "hybrid dynamic"]
    assert list(results) == names
    directory = tmp_path / "all"
    assert read(directory, "results.json") == results
    folders = ["none", "at", "hybrid_balance_0.5", "hybrid_balance_dynamic"]
    for name, folder in zip(names, folders, strict=True):
        assert read(directory / f"method_{folder}", "results.json") == results[name]
    weights = [
        read(directory / f"method_{folder}", "config.json")["method_weight"]
        for folder in folders
    ]
    assert weights == [None, 3.0, None, None]
    header, *rows = (directory / "sweep.txt").read_text().splitlines()
    assert header.split() == ["run", "top-1", "top-5"]
    for row, (name, result) in zip(rows, results.items(), strict=True):
        assert row.split() == [*name.split(), f"{result['top1']:.2f}", "100.00"]
    with Image.open(directory / "sweep.png") as picture:
        assert picture.size == (700, 500)
    # An added method runs alone.
    more = dataclasses.replace(several, method="none,at,hybrid,fitnet")
    assert list(imagenet.main(more)) == [*names, "fitnet"]


def test_a_run_that_diverges_does_not_end_a_list(files, tmp_path, eager, monkeypatch):
    fit = run.fit

    def diverging(directory, *args, **kwargs):
        if directory.name.endswith("_1"):
            raise FloatingPointError("Infinite.")
        fit(directory, *args, **kwargs)

    monkeypatch.setattr(run, "fit", diverging)
    several = config(files, tmp_path / "all", epochs=1, balance="1,2")
    with pytest.raises(FloatingPointError, match="^1: Infinite.$"):
        imagenet.main(several)
    _, *rows = (tmp_path / "all" / "sweep.txt").read_text().splitlines()
    score = f"{read(tmp_path / 'all', 'results.json')['2']['top1']:.2f}"
    assert [row.split() for row in rows] == [["1", "-", "-"], ["2", score, "100.00"]]


def test_all_methods_of_a_list_are_checked_before_the_first_run(files, tmp_path):
    several = config(files, tmp_path / "all", method="none,kd")  # a teacher without head
    with pytest.raises(ValueError, match="of the same classes"):
        imagenet.main(several)
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "no.keras"}, "--teacher must be a file that exists"),
        ({"teacher": "ResNet50,no.npz"}, "Received: --teacher=no.npz"),
        ({"teacher": "ResNet"}, "--teacher=ResNet: `name` must be one of"),
        ({"student": "no.keras"}, "--student must be a file that exists"),
        ({"teacher": ""}, "--teacher must be given with --data_dir, unless"),
        ({"student_weights": "Random"}, "--student_weights must be imagenet, random or"),
        ({"student": "MobilNet"}, "--student=MobilNet: .* Did you mean 'MobileNet'"),
    ],
)
def test_wrong_networks_are_refused_before_the_data_is_read(
    changes, message, files, tmp_path
):
    recipe = dataclasses.replace(imagenet.RECIPE, open_data=None)
    with pytest.raises((ValueError, OSError), match=message):
        recipe.main(config(files, tmp_path / "run", **changes))


def test_a_sweep_needs_a_new_workdir(finished):
    done, _ = finished
    with pytest.raises(ValueError, match="--workdir must be a new .* a single run"):
        imagenet.main(dataclasses.replace(done, balance="1,2"))


def test_a_list_of_balances_applies_to_hybrid_alone():
    several = imagenet.Config(method="none,hybrid", balance="1,dynamic", workdir="w")
    runs = settings.runs_of(several)
    found = {name: (one.workdir, one.balance) for name, one in runs.items()}
    assert found == {
        "none": ("w/method_none", "1"),
        "hybrid 1": ("w/method_hybrid_balance_1", "1"),
        "hybrid dynamic": ("w/method_hybrid_balance_dynamic", "dynamic"),
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"method": "none,none"}, "--method must be a list without repetitions"),
        ({"balance": "1,2,1"}, "--balance must be a list without repetitions"),
        ({"method": "none,magic"}, "--method must be hybrid, none, kd, .* with commas"),
        ({"method": ""}, "--method must be hybrid"),
        ({"balance": "1,"}, '--balance must be "dynamic" or a number'),
        ({"redo": "train"}, "--redo must be evaluate, export or both"),
        (
            {"method": "none,hybrid", "method_weight": 2.0},
            "--method_weight must be left out with --method=none,hybrid",
        ),
    ],
)
def test_invalid_lists_are_rejected(flags, message):
    with pytest.raises(ValueError, match=message):
        imagenet.Config(**flags)


def lines_of(recipe):
    return [line.strip() for line in inspect.getsource(recipe).splitlines()]


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_have_at_most_200_lines(recipe):
    assert len(lines_of(recipe)) <= 200


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(RECIPES, 2)])
def test_recipes_do_not_repeat_each_other(one, other):
    def runs_of_six(recipe):
        lines = lines_of(recipe)
        return {tuple(lines[i : i + 6]) for i in range(len(lines) - 5)}

    assert not runs_of_six(one) & runs_of_six(other)
