"""Runs the paper's comparisons on real data, the tables of `study_plan.py`.

    python benchmarks/study.py TABLE ... --materials=DIR --work=DIR

`--materials` holds cifar10.npz (x_train, y_train, x_test, y_test), camvid/ and teachers/.
Each cell of a table is a run of a recipe in a process of its own, on one core, `--jobs`
at a time. A finished run is appended to benchmarks/study/TABLE.jsonl and not repeated; an
interrupted one resumes from its checkpoint in `--work`. `study_report.py` makes tables
and plots from these lines alone.
"""

import keras_hybrid  # before TensorFlow: oneDNN is on

# isort: split
import argparse
import concurrent.futures
import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import platform
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import study_materials
import study_plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    tables = [name for name, table in study_plan.TABLES.items() if not table.gpu]
    parser.add_argument("tables", nargs="+", choices=tables)
    parser.add_argument("--materials", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--cell", nargs=2, metavar=("ROW", "SEED"), help="run one cell in this process"
    )
    options = parser.parse_args()
    if options.cell:
        row, seed = options.cell
        run_cell(*options.tables, row, int(seed), options.work)
        return
    study_materials.prepare(options.materials.resolve(), options.work)
    for table in options.tables:
        has_teacher = (options.work / study_plan.TUNED_TEACHER).exists()
        if table.startswith("cifar10") and not has_teacher:
            run_table("cifar10_teacher", options, again=True)
        run_table(table, options)


def run_table(table: str, options: argparse.Namespace, again: bool = False) -> None:
    """Runs the missing cells of a table, one per core; with `again`, all of its cells."""
    cores = queue.SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[: options.jobs]:
        cores.put(core)

    def run(row, seed):
        core = cores.get()
        try:
            return run_process(table, row, seed, core, options)
        finally:
            cores.put(core)

    run_cells(table, run, options.jobs, again)


def run_cells(
    table: str,
    run: Callable[[str, int], dict[str, Any] | None],
    jobs: int,
    again: bool = False,
) -> None:
    """Runs the missing cells of a table and appends their lines.

    Args:
        table: Name of the table.
        run: Function from a row and a seed to the content of a line, or None if the run
            failed.
        jobs: Number of parallel runs.
        again: Whether to repeat finished runs, too.
    """
    plan = study_plan.TABLES[table]
    done = {} if again else study_plan.read(table)
    cells = [(row, seed) for row, spec in plan.rows().items() for seed in spec.seeds]
    # All rows with one seed before the next seed: an interrupted table can be compared.
    missing = sorted(
        (cell for cell in cells if cell not in done), key=lambda cell: cell[1]
    )
    print(f"{table}: {len(missing)} of {len(cells)} runs to do", flush=True)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        runs = {pool.submit(run, *cell): cell for cell in missing}
        for finished in concurrent.futures.as_completed(runs):
            row, seed = runs[finished]
            content = finished.result()
            if content:
                append(table, content)
            figure = plan.result(content["results"]) if content else "failed"
            print(f"{time.strftime('%H:%M')} {table}, {row}, seed {seed}: {figure}")
            sys.stdout.flush()


def append(table: str, content: Mapping[str, Any]) -> None:
    """Appends a line to the file of a table."""
    study_plan.LINES.mkdir(exist_ok=True)
    with open(study_plan.LINES / f"{table}.jsonl", "a") as file:
        file.write(json.dumps(content) + "\n")


def run_process(
    table: str, row: str, seed: int, core: int, options: argparse.Namespace
) -> dict[str, Any] | None:
    """Runs a cell on one core; returns the content of its line, or None if it failed."""
    directory = cell_directory(options.work, table, row, seed)
    directory.parent.mkdir(parents=True, exist_ok=True)
    command = [
        *("taskset", "--cpu-list", str(core), sys.executable, __file__, table),
        *("--materials", options.materials, "--work", options.work),
        *("--cell", row, str(seed)),
    ]
    with open(f"{directory}.log", "w") as log:
        process = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if process.returncode:
        return None
    return json.loads(pathlib.Path(f"{directory}.json").read_text())


def cell_directory(work: pathlib.Path, table: str, row: str, seed: int) -> pathlib.Path:
    """Returns the workdir of a cell."""
    name = f"{row} {seed}".replace(",", "").replace("/", "over").replace(" ", "_")
    return work / "runs" / table / name


def run_cell(table: str, row: str, seed: int, work: pathlib.Path) -> None:
    """Runs the recipe with the settings of a row, and writes the content of its line."""
    plan = study_plan.TABLES[table]
    spec = plan.rows()[row]
    directory = cell_directory(work.resolve(), table, row, seed)
    os.chdir(work)
    recipe = importlib.import_module(f"keras_hybrid.recipes.{plan.recipe}")
    config = config_of(plan, spec, seed, directory)
    with varied(spec):
        results = recipe.main(config)
    content = {
        **planned(table, row, seed),
        "config": {**dataclasses.asdict(config), "workdir": ""},
        "results": results,
        "epochs": in_five_digits(columns(directory / "metrics.csv")),
        "machine": machine(),
    }
    if plan.recipe == "citypersons":
        detections = json.loads((directory / "detections.json").read_text())
        truth = recipe.open_data(config).test.ground_truth()
        content["curves"] = miss_rates(truth, detections, recipe.subsets_of(config))
    pathlib.Path(f"{directory}.json").write_text(json.dumps(content))


def config_of(
    plan: study_plan.Table, spec: study_plan.Row, seed: int, workdir: str | os.PathLike
) -> Any:
    """Returns the `Config` of the recipe for a run.

    On small images, paths change network at every stride, not only at the paper's, unless
    a row has other switch points.
    """
    recipe = importlib.import_module(f"keras_hybrid.recipes.{plan.recipe}")
    everywhere = {"switch_points": "all"} if plan.recipe == "imagenet" else {}
    settings = study_plan.settings_of(plan, spec, seed)
    return recipe.Config(**everywhere, **settings, workdir=str(workdir))


def planned(table: str, row: str, seed: int) -> dict[str, Any]:
    """Returns what a line records of its row in addition to the recipe's settings."""
    spec = study_plan.TABLES[table].rows()[row]
    names = "hybrid", "loss_factor", "adapter_norm", "adapter_rate"
    return {"row": row, "seed": seed, **{name: getattr(spec, name) for name in names}}


@contextlib.contextmanager
def varied(row: study_plan.Row) -> Iterator[None]:
    """Makes recipes do what a row sets beyond their flags, and evaluate only at the end.

    The curves of Fig. 5 and 6 show the training, and seconds should be those of training
    alone.
    """
    import keras

    from keras_hybrid.hybrid import paths
    from keras_hybrid.recipes import run

    def fit(*args, validation_data=None, **kwargs):
        return original_fit(*args, **kwargs)

    def hybrid(*args, **kwargs):
        return scaled(*args, **{**kwargs, **row.hybrid})

    def update_step(self, gradient, variable, learning_rate):
        weight = self._trainable_variables[self._get_variable_index(variable)]
        if "_adapter" in weight.path:
            learning_rate = learning_rate * row.adapter_rate
        return original_step(self, gradient, variable, learning_rate)

    original_fit, original_step = run.fit, keras.optimizers.SGD.update_step
    scaled = scaled_hybrid(row.loss_factor)
    adapter = adapter_with_norm() if row.adapter_norm else paths.Adapter
    with (
        mock.patch.object(run, "fit", fit),
        mock.patch.object(keras.optimizers.SGD, "update_step", update_step),
        mock.patch.object(keras_hybrid, "HybridTransfer", hybrid),
        mock.patch.object(paths, "Adapter", adapter),
    ):
        yield


def scaled_hybrid(factor: float) -> type:
    """Returns a `HybridTransfer` class that minimises its loss times `factor`."""
    from keras_hybrid import HybridTransfer

    if factor == 1:
        return HybridTransfer

    class ScaledHybrid(HybridTransfer):
        def _training_loss(self, *args):
            loss, y_pred = super()._training_loss(*args)
            return factor * loss, y_pred

    return ScaledHybrid


def adapter_with_norm() -> type:
    """Returns an `Adapter` class with batch normalization, for the ablation.

    It always normalizes with the statistics of the batch.
    """
    import keras

    from keras_hybrid.hybrid.adapters import Adapter

    class AdapterWithNorm(Adapter):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.norm = keras.layers.BatchNormalization(name="norm")

        def build(self, input_shape):
            super().build(input_shape)
            self.norm.build((*input_shape[:-1], self.channels))

        def call(self, x, size):
            return self.norm(super().call(x, size), training=True)

    return AdapterWithNorm


def columns(path: str | os.PathLike) -> dict[str, list[float]]:
    """Returns the columns of a metrics.csv, by name."""
    from keras_hybrid.callbacks import read_rows

    rows = read_rows(path)
    return {name: [row[name] for row in rows] for name in rows[0]}


def in_five_digits(columns: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Rounds columns to five significant digits."""
    return {k: [float(f"{value:.5g}") for value in v] for k, v in columns.items()}


def miss_rates(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    subsets: Mapping[str, Any],
) -> dict[str, list[float]]:
    """Returns a detector's miss rates at 61 rates of false positives, by subset.

    Args:
        truth: COCO-style ground truth.
        detections: COCO-style detections.
        subsets: Subsets for `miss_rate_curve`, by name.
    """
    import numpy as np

    from keras_hybrid.metrics import miss_rate_curve

    fppi = np.logspace(-2, 1, 61)
    curves = {"fppi": fppi.round(4).tolist()}
    for name in ("learned", "reasonable"):
        curve = miss_rate_curve(truth, detections, subsets[name])
        at = np.searchsorted(curve.fppi, fppi, side="right") - 1
        rates = np.where(at < 0, 1.0, curve.miss_rate[at])
        curves[name] = rates.round(4).tolist()
    return curves


def machine() -> dict[str, Any]:
    """Describes the machine; only JAX is asked for a GPU, since all GPU tables use it."""
    import keras
    from machine import cpu_model

    model = cpu_model()
    backend = keras.backend.backend()
    library = importlib.import_module(backend)
    if backend == "jax" and library.default_backend() == "gpu":
        model = library.devices()[0].device_kind
    return {
        "processor": f"{platform.machine()}, {model}",
        "cores": len(os.sched_getaffinity(0)),
        backend: library.__version__,
        "keras": keras.__version__,
    }


if __name__ == "__main__":
    main()
