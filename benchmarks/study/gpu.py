"""Runs tables of the study on a GPU with Keras's JAX backend, without TensorFlow.

    python -m benchmarks.study.gpu pack TABLE ... --pack=DIR --materials=DIR --work=DIR
    KERAS_BACKEND=jax python -m benchmarks.study.gpu run TABLE ... --pack=DIR

`pack` needs TensorFlow. The recipes build and compile the model of each row; `pack`
writes the configuration of the models, the teachers' weights in float16 and the images.
`run` trains and evaluates the packed cells, each in a process of its own, `--jobs` at a
time. A finished one is appended to benchmarks/study/TABLE.jsonl and not repeated. JAX and
NumPy sample initial weights, data order and crops.
"""

import argparse
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
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from benchmarks.study import arrays, cifar10, materials, people_arrays, plan, run
from benchmarks.study.tables import TABLES
from keras_hybrid import HybridTransfer, baselines
from keras_hybrid.models.detection.faster_rcnn import FasterRCNN
from keras_hybrid.training import atomic_write

_KINDS = {k.__name__: k for k in (HybridTransfer, baselines.FeatureTransfer, FasterRCNN)}
_DATA = {
    "imagenet": arrays.SmallImages,
    "cityscapes": arrays.LabelMaps,
    "citypersons": people_arrays.PeopleBoxes,
}
_TUNED = "tuned.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("pack", "run"))
    tables = [name for name, table in TABLES.items() if table.gpu]
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
        cell = run_cell(TABLES[options.tables[0]], row, int(seed), options.pack)
        print(json.dumps(cell))
    elif options.command == "pack":
        materials.prepare(options.materials.resolve(), options.work)
        options.pack.mkdir(parents=True, exist_ok=True)
        os.chdir(options.work)
        pack_teachers(options.pack)
        for name in options.tables:
            pack(TABLES[name], options.pack)
    else:
        for name in options.tables:
            cell = functools.partial(run_process, name, options)
            run.run_cells(TABLES[name], cell, options.jobs)


def pack_teachers(folder: pathlib.Path) -> None:
    """Writes the teachers' weights in float16, by path."""
    for name in materials.TEACHERS:
        weights = keras.saving.load_model(name).weights
        halves = {w.path: w.numpy().astype("float16") for w in weights}
        np.savez_compressed(folder / f"{name}.npz", **halves)


def pack(table: plan.Table, folder: pathlib.Path) -> None:
    """Writes TABLE.json, with config and model of each row, and the table's images."""
    # Only here, since it needs TensorFlow.
    from keras_hybrid.recipes.engine.run import epochs_of

    module = importlib.import_module(f"keras_hybrid.recipes.{table.recipe}")
    rows = {}
    for row, spec in table.rows().items():
        config = run.config_of(table, spec, 0, f"runs/{table.name}")
        data, model, student = module.prepare(config)
        model = run.varied(model, spec)
        compiled = {**model.get_compile_config(), "jit_compile": "auto"}
        if table.recipe == "cityscapes":
            compiled["metrics"] = None  # in training it would take longer than the step
        network = student if config.method == "none" else model
        serialized = keras.saving.serialize_keras_object(network)
        rows[row] = {
            "config": {**dataclasses.asdict(config), "workdir": ""},
            "epochs": epochs_of(config, len(data.train) // config.batch_size),
            "model": {**serialized, "compile_config": compiled},
        }
        images = folder / pathlib.Path(config.data_dir).stem
        if not images.exists():
            is_small = table.recipe == "imagenet"
            pack_images = arrays.pack_small if is_small else shutil.copytree
            with atomic_write.staged(images) as new:
                pack_images(config.data_dir, new)
    if table.recipe == "citypersons":  # the data are the same for all rows
        people_arrays.pack_people(config, data, module.subsets_of(config), images)
    (folder / f"{table.name}.json").write_text(json.dumps(rows))


def run_process(
    name: str, options: argparse.Namespace, row: str, seed: int
) -> dict[str, Any] | None:
    """Runs a cell; returns the content of its line, or None if it failed."""
    command = [sys.executable, "-m", "benchmarks.study.gpu", "run", name]
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(options.pack / "compiled"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.8 / options.jobs:.3f}",
    }
    process = subprocess.run(
        [*command, "--pack", options.pack, "--cell", row, str(seed)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    return None if process.returncode else json.loads(process.stdout.splitlines()[-1])


def run_cell(
    table: plan.Table, row: str, seed: int, folder: pathlib.Path
) -> dict[str, Any]:
    """Trains and evaluates the model of a cell; returns the content of its line."""
    cell = json.loads((folder / f"{table.name}.json").read_text())[row]
    config = {**cell["config"], "seed": seed}
    keras.utils.set_random_seed(seed)
    model = keras.saving.deserialize_keras_object(cell["model"], _KINDS)
    start(model, config, folder)
    images = folder / pathlib.Path(config["data_dir"]).stem
    data = _DATA[table.recipe](config, images)
    seconds = Seconds()
    history = model.fit(
        data.training_batches(cell["epochs"]),
        epochs=cell["epochs"],
        steps_per_epoch=data.steps_per_epoch,
        shuffle=False,  # the batches are shuffled already
        callbacks=[seconds],
        verbose=0,
    )
    results = data.evaluate(model)
    if table.name == cifar10.GPU_TEACHER_TABLE.name:
        weights = {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}
        np.savez(folder / _TUNED, **weights)
    epochs = {"seconds": seconds.at_ends, **history.history}
    content = {
        **run.planned(table.rows()[row], row, seed),
        "config": config,
        "results": results,
        "epochs": run.in_five_digits(epochs),
        "machine": run.machine(),
    }
    if isinstance(data, people_arrays.PeopleBoxes):
        detections = data.with_given_ids(data.detections)
        found = data.ground_truth(), detections, data.subsets
        content["curves"] = run.miss_rate_curves(*found)
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
    if file == plan.RANDOM_TEACHER:
        materials.reinitialize(network)
    elif file == cifar10.GPU_TEACHER:
        assign(network, folder / _TUNED)
    elif file.endswith(".keras"):
        # All other teachers were made from the first one.
        packed = materials.TEACHERS
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
