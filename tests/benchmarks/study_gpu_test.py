"""A cell that is packed here and run there is the one that its row plans."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import tiny
from detectors import backbone, save_people


@pytest.fixture
def pack(module, monkeypatch, tmp_path):
    """`pack(recipe, settings, rows)`: a table "tiny", packed to tmp_path/pack."""

    def pack(recipe, settings, rows):
        gpu, plan = module("study.gpu"), module("study.plan")
        table = plan.Table("tiny", recipe, settings, lambda: rows, lambda results: 0)
        monkeypatch.setattr(module("study.materials"), "TEACHERS", ["teacher.keras"])
        monkeypatch.chdir(tmp_path)
        (tmp_path / "pack").mkdir()
        gpu.pack_teachers(tmp_path / "pack")
        gpu.pack(table, tmp_path / "pack")
        return table

    return pack


@pytest.fixture
def packed(module, pack, tmp_path):
    """(module, table, pack's folder) of two rows, whose teacher is a file."""
    gpu, plan = module("study.gpu"), module("study.plan")
    tiny.student(channels=(6, 8, 10)).save(tmp_path / "teacher.keras")
    tiny.student().save(tmp_path / "student.keras")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (1000, 32, 32, 3), "uint8")
    labels = np.arange(1000) % 4
    parts = {"train": (images, labels), "test": (images, labels)}
    arrays = {f"{k}_{part}": x for part, xy in parts.items() for k, x in zip("xy", xy)}
    np.savez(tmp_path / "images.npz", **arrays)
    settings = {"data_dir": "images.npz", "epochs": 2, "batch_size": 250}
    taught = {"student": "student.keras", "teacher": "teacher.keras"}
    rows = {
        "none": plan.Row({"method": "none", "student": "teacher.keras"}),
        "ours": plan.Row({"method": "hybrid", **taught}, {"switch_points": [4]}),
    }
    table = pack("imagenet", settings, rows)
    cells = (tmp_path / "pack" / "tiny.json").read_text()
    # XLA takes a minute here.
    cells = cells.replace('"jit_compile": "auto"', '"jit_compile": false')
    (tmp_path / "pack" / "tiny.json").write_text(cells)
    return gpu, table, tmp_path / "pack"


def test_lines(packed):
    gpu, table, folder = packed
    monitored = {}
    for row, seed in (("none", 0), ("ours", 3)):
        line = gpu.run_cell(table, row, seed, folder)
        assert (line["row"], line["seed"], line["config"]["seed"]) == (row, seed, seed)
        assert line["config"]["method"] == {"none": "none", "ours": "hybrid"}[row]
        assert line["results"]["training_images"] == 1000
        assert 0 < line["results"]["top1"] < 60
        assert len(line["epochs"]["seconds"]) == 2
        monitored[row] = set(line["epochs"])
        json.dumps(line)
    assert {"loss", "top1", "top5"} <= monitored["none"] & monitored["ours"]
    assert monitored["ours"] - monitored["none"] == {
        *("balance", "student_loss", "student_first_loss", "teacher_first_loss")
    }


def test_the_model_is_what_the_recipe_made(packed):
    gpu, table, folder = packed
    cell = json.loads((folder / "tiny.json").read_text())["ours"]
    model = keras.saving.deserialize_keras_object(cell["model"])
    gpu.start(model, cell["config"], folder)
    assert model.switch_points == [4]
    known = keras.saving.load_model("teacher.keras").weights
    assert [w.path for w in model.teacher.weights] == [w.path for w in known]
    for weight, expected in zip(model.teacher.weights, known):
        np.testing.assert_allclose(weight, expected, rtol=2**-10, atol=1e-7)
    assert not model.teacher.trainable_variables
    # The recipe's: SGD whose rate is in proportion to the batch, thirds of 8 steps.
    rate = model.optimizer._learning_rate
    assert rate.boundaries == [3, 5]
    assert rate.values == pytest.approx([0.1 * 250 / 256 / 10**i for i in range(3)])


def test_weights_of_another_network(module, tmp_path):
    student = tiny.student()
    kernel = student.weights[0].numpy()
    np.savez(tmp_path / "some.npz", **{student.weights[0].path: kernel + 1})
    assign = module("study.gpu").assign
    assign(student, tmp_path / "some.npz")
    np.testing.assert_array_equal(student.weights[0], kernel + 1)
    np.savez(tmp_path / "other.npz", **{"conv1/kernel": kernel, "conv9/kernel": kernel})
    with pytest.raises(AssertionError, match="of another network"):
        assign(student, tmp_path / "other.npz")


def test_a_line_of_people(module, pack, tmp_path):
    gpu, plan = module("study.gpu"), module("study.plan")
    for part in ("train", "test"):
        save_people(tmp_path / "images", part, 4)
    backbone((4, 8, 8, 8, 8), 1 / 255).save(tmp_path / "backbone.keras")
    tiny.teacher(size=None).save(tmp_path / "teacher.keras")
    settings = {
        "data_dir": "images",
        "student_backbone": "backbone.keras",
        "teacher": "teacher.keras",
        "steps": 2,
        "batch_size": 2,
        "crop_height": 64,
        "crop_width": 96,
        "min_height": 12.0,
        "channels": 8,
        "units": 16,
    }
    rows = {"ours": plan.Row({"method": "hybrid"})}
    table = pack("citypersons", settings, rows)
    line = gpu.run_cell(table, "ours", 3, tmp_path / "pack")
    assert line["results"]["test_images"] == 4
    assert line["results"]["miss_rate"]["learned"] <= 100
    assert len(line["curves"]["fppi"]) == len(line["curves"]["learned"]) == 61
    assert {"balance", "student_loss", "student_first_loss"} <= set(line["epochs"])
    json.dumps(line)


def test_a_run_needs_no_tensorflow():
    code = """
import sys
sys.modules.update(dict.fromkeys(("tensorflow", "tensorflow_datasets")))
import benchmarks.study.gpu
"""
    root = pathlib.Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, check=True)
