"""Runs tables of the study on a GPU with Keras's JAX backend, without TensorFlow.

    python benchmarks/study_gpu.py pack TABLE ... --pack=DIR --materials=DIR --work=DIR
    KERAS_BACKEND=jax python benchmarks/study_gpu.py run TABLE ... --pack=DIR

`pack` needs TensorFlow. The recipes build and compile the model of each row; `pack`
writes the configuration of the models, the teachers' weights in float16, the images, and
the anchors of detectors, which keras-cv makes with TensorFlow. `run` trains and evaluates
the packed cells, each in a process of its own, `--jobs` at a time. A finished one is
appended to benchmarks/study/TABLE.jsonl and not repeated. JAX and NumPy sample initial
weights, data order and crops.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from unittest import mock

import keras
import numpy as np
import study
import study_arrays
import study_materials
import study_people
import study_plan

from keras_hybrid import HybridTransfer, baselines
from keras_hybrid.models.detection import anchors
from keras_hybrid.models.detection.detection_head import DetectionHead
from keras_hybrid.models.detection.faster_rcnn import FasterRCNN
from keras_hybrid.training import atomic_write

_KINDS = {k.__name__: k for k in (HybridTransfer, baselines.FeatureTransfer, FasterRCNN)}
_DATA = {
    "imagenet": study_arrays.SmallImages,
    "cityscapes": study_arrays.SegmentationDataset,
    "citypersons": study_people.PeopleBoxes,
}
_TUNED, _ANCHORS = "tuned.npz", "anchors.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("pack", "run"))
    tables = [name for name, table in study_plan.TABLES.items() if table.gpu]
    parser.add_argument("tables", nargs="+", choices=tables)
    parser.add_argument("--pack", type=pathlib.Path, required=True)
    parser.add_argument("--materials", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument(
        "--cell", nargs=2, metavar=("ROW", "SEED"), help="run one cell in this process"
    )
    options = parser.parse_args()
    options.pack = options.pack.resolve()
    if options.cell:
        row, seed = options.cell
        print(json.dumps(run_cell(*options.tables, row, int(seed), options.pack)))
    elif options.command == "pack":
        study_materials.prepare(options.materials.resolve(), options.work)
        options.pack.mkdir(parents=True, exist_ok=True)
        os.chdir(options.work)
        pack_teachers(options.pack)
        for table in options.tables:
            pack(table, options.pack)
    else:
        for table in options.tables:
            run = functools.partial(run_process, table, options)
            study.run_cells(table, run, options.jobs)


def pack_teachers(folder: pathlib.Path) -> None:
    """Writes the teachers' weights in float16, by path."""
    for name in study_materials.TEACHERS:
        weights = keras.saving.load_model(name).weights
        halves = {w.path: w.numpy().astype("float16") for w in weights}
        np.savez_compressed(folder / f"{name}.npz", **halves)


def pack(table: str, folder: pathlib.Path) -> None:
    """Writes TABLE.json, with config and model of each row, and the table's images."""
    plan = study_plan.TABLES[table]
    recipe = importlib.import_module(f"keras_hybrid.recipes.{plan.recipe}")
    rows = {}
    for row, spec in plan.rows().items():
        config = study.config_of(plan, spec, 0, f"runs/{table}")
        with study.varied(spec):
            *data, model, student = recipe.prepare(config)
        compiled = {**model.get_compile_config(), "jit_compile": "auto"}
        if plan.recipe == "cityscapes":
            compiled["metrics"] = None  # in training it would take longer than the step
        network = student if config.method == "none" else model
        serialized = keras.saving.serialize_keras_object(network)
        rows[row] = {
            "config": {**dataclasses.asdict(config), "workdir": ""},
            "model": {**serialized, "compile_config": compiled},
        }
        images = folder / pathlib.Path(config.data_dir).stem
        if not images.exists():
            is_small = plan.recipe == "imagenet"
            pack_images = study_arrays.pack_small if is_small else shutil.copytree
            with atomic_write.staged(images) as new:
                pack_images(config.data_dir, new)
    if plan.recipe == "citypersons":  # data and anchors are the same for all rows
        study_people.pack_people(config, *data, images)
        people = study_people.PeopleBoxes(rows[row]["config"], images)
        pack_anchors(student.head, people.sizes, folder)
    (folder / f"{table}.json").write_text(json.dumps(rows))


def pack_anchors(
    head: DetectionHead, sizes: Iterable[tuple[int, int]], folder: pathlib.Path
) -> None:
    """Writes the anchors for images of each size, by the sizes of the feature maps.

    Args:
        head: Head of the detector.
        sizes: (height, width) of the images.
        folder: Folder for the file.
    """
    arrays = {}
    for height, width in sizes:
        cells = [(height // stride, width // stride) for stride in head.strides]
        settings = head.strides, head.levels, head.height_per_width
        arrays[str(cells)] = anchors.anchors_of(cells, *settings)
    np.savez_compressed(folder / _ANCHORS, **arrays)


@contextlib.contextmanager
def packed_anchors(folder: pathlib.Path) -> Iterator[None]:
    """Makes detectors take the anchors that `pack_anchors` wrote, if it wrote any."""
    if not (folder / _ANCHORS).exists():
        yield
        return
    with np.load(folder / _ANCHORS) as arrays:
        packed = dict(arrays)

    def take(cells, *_):
        return packed[str([tuple(size) for size in cells])]

    with mock.patch.object(anchors, "anchors_of", take):
        yield


def run_process(
    table: str, options: argparse.Namespace, row: str, seed: int
) -> dict[str, Any] | None:
    """Runs a cell; returns the content of its line, or None if it failed."""
    command = [sys.executable, __file__, "run", table, "--pack", options.pack]
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(options.pack / "compiled"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.8 / options.jobs:.3f}",
    }
    process = subprocess.run(
        [*command, "--cell", row, str(seed)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    return None if process.returncode else json.loads(process.stdout.splitlines()[-1])


def run_cell(table: str, row: str, seed: int, folder: pathlib.Path) -> dict[str, Any]:
    """Trains and evaluates the model of a cell; returns the content of its line."""
    cell = json.loads((folder / f"{table}.json").read_text())[row]
    config = {**cell["config"], "seed": seed}
    keras.utils.set_random_seed(seed)
    model = keras.saving.deserialize_keras_object(cell["model"], _KINDS)
    start(model, config, folder)
    images = folder / pathlib.Path(config["data_dir"]).stem
    data = _DATA[study_plan.TABLES[table].recipe](config, images)
    seconds = Seconds()
    with packed_anchors(folder):
        history = model.fit(
            data.training_batches(),
            epochs=data.epochs,
            steps_per_epoch=data.steps_per_epoch,
            shuffle=False,  # the batches are shuffled already
            callbacks=[seconds],
            verbose=0,
        )
        results = data.evaluate(getattr(model, "student", model))
    if table == study_plan.GPU_TEACHER_TABLE:
        weights = {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}
        np.savez(folder / _TUNED, **weights)
    epochs = {"seconds": seconds.at_ends, **history.history}
    content = {
        **study.planned(table, row, seed),
        "config": config,
        "results": results,
        "epochs": study.in_five_digits(epochs),
        "machine": study.machine(),
    }
    if isinstance(data, study_people.PeopleBoxes):
        found = data.ground_truth, data.detections, data.subsets
        content["curves"] = study.miss_rates(*found)
    return content


class Seconds(keras.callbacks.Callback):
    """Records the seconds since the start at the end of each epoch.

    `TransferCurves` would need TensorFlow.
    """

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self.at_ends, self._begun = [], time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.at_ends.append(time.monotonic() - self._begun)


def start(model: keras.Model, config: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Loads the teacher's weights; all other weights are random already."""
    if config["method"] == "none":
        network, file = model, config.get("student", "")
    else:
        network, file = model.teacher, config["teacher"]
    if file == study_plan.RANDOM_TEACHER:
        study_materials.forget(network)
    elif file == study_plan.GPU_TEACHER:
        assign(network, folder / _TUNED)
    elif file.endswith(".keras"):
        # All other teachers were made from the first one.
        packed = study_materials.TEACHERS
        assign(network, folder / f"{file if file in packed else packed[0]}.npz")


def assign(network: keras.Model, path: pathlib.Path) -> None:
    """Loads a network's weights from a file, except for those of a new classifier."""
    with np.load(path) as weights:
        saved = [weight for weight in network.weights if weight.path in weights]
        assert len(saved) == len(weights.files), f"{path} is of another network"
        for weight in saved:
            weight.assign(weights[weight.path].astype("float32"))


if __name__ == "__main__":
    main()
