"""Runs comparisons on real data, the paper's among them: the tables in `tables`.

    python -m benchmarks.study.run TABLE ... --materials=DIR --work=DIR

`--materials` holds cifar10.npz (x_train, y_train, x_test, y_test), teachers/ and camvid/,
and caltech101/ and students/ for the tables that need them. Each cell of a table is a run
of a recipe in a process of its own, on one core, `--jobs` at a time. A finished run is
appended to benchmarks/study/TABLE.jsonl and not repeated; an interrupted one resumes from
its checkpoint in `--work`. `report` makes tables and plots from these lines alone.
"""

import keras_hybrid  # before TensorFlow: oneDNN is on

# isort: split
import argparse
import concurrent.futures
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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from benchmarks.machine import cpu_model, isa
from benchmarks.study import adapters, cifar10, materials, plan
from benchmarks.study.tables import TABLES
from keras_hybrid.callbacks import read_rows
from keras_hybrid.metrics import miss_rate_curve


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--cell", nargs=2, metavar=("ROW", "SEED"), help="run one cell in this process"
    )
    options = parser.parse_args()
    if options.cell:
        row, seed = options.cell
        run_cell(TABLES[options.tables[0]], row, int(seed), options.work)
        return
    materials.prepare(options.materials.resolve(), options.work)
    for name in options.tables:
        has_teacher = (options.work / cifar10.TUNED_TEACHER).exists()
        if name.startswith("cifar10") and not has_teacher:
            run_table(cifar10.TEACHER.name, options, again=True)
        run_table(name, options)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of names of tables, --materials and --work."""
    parser = argparse.ArgumentParser(description=description)
    tables = [name for name, table in TABLES.items() if not table.gpu]
    parser.add_argument("tables", nargs="+", choices=tables)
    parser.add_argument("--materials", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    return parser


def run_table(name: str, options: argparse.Namespace, again: bool = False) -> None:
    """Runs the missing cells of a table, one per core; with `again`, all of its cells."""
    cores = queue.SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[: options.jobs]:
        cores.put(core)

    def run(row, seed):
        core = cores.get()
        try:
            return run_process(name, row, seed, core, options)
        finally:
            cores.put(core)

    run_cells(TABLES[name], run, options.jobs, again)


def run_cells(
    table: plan.Table,
    run: Callable[[str, int], dict[str, Any] | None],
    jobs: int,
    again: bool = False,
) -> None:
    """Runs the missing cells of a table and appends their lines.

    Args:
        table: The table.
        run: Function from a row and a seed to the content of a line, or None if the run
            failed.
        jobs: Number of parallel runs.
        again: Whether to repeat finished runs, too.
    """
    done = {} if again else plan.read(table.name)
    cells = [(row, seed) for row, spec in table.rows().items() for seed in spec.seeds]
    # All rows with one seed before the next seed: an interrupted table can be compared.
    missing = sorted(
        (cell for cell in cells if cell not in done), key=lambda cell: cell[1]
    )
    print(f"{table.name}: {len(missing)} of {len(cells)} runs to do", flush=True)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        runs = {pool.submit(run, *cell): cell for cell in missing}
        for finished in concurrent.futures.as_completed(runs):
            row, seed = runs[finished]
            content = finished.result()
            if content:
                append(table.name, content)
            figure = table.result(content["results"]) if content else "failed"
            print(f"{time.strftime('%H:%M')} {table.name}, {row}, seed {seed}: {figure}")
            sys.stdout.flush()


def append(name: str, content: Mapping[str, Any]) -> None:
    """Appends a line to the file of a table."""
    with open(plan.LINES / f"{name}.jsonl", "a") as file:
        file.write(json.dumps(content) + "\n")


def run_process(
    name: str, row: str, seed: int, core: int, options: argparse.Namespace
) -> dict[str, Any] | None:
    """Runs a cell on one core; returns the content of its line, or None if it failed."""
    directory = cell_directory(options.work, name, row, seed)
    directory.parent.mkdir(parents=True, exist_ok=True)
    command = [
        *("taskset", "--cpu-list", str(core)),
        *(sys.executable, "-m", "benchmarks.study.run", name),
        *("--materials", options.materials, "--work", options.work),
        *("--cell", row, str(seed)),
    ]
    with open(f"{directory}.log", "w") as log:
        process = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if process.returncode:
        return None
    return json.loads(pathlib.Path(f"{directory}.json").read_text())


def cell_directory(work: pathlib.Path, name: str, row: str, seed: int) -> pathlib.Path:
    """Returns the workdir of a cell."""
    cell = f"{row} {seed}".replace(",", "").replace("/", "over").replace(" ", "_")
    return work / "runs" / name / cell


def run_cell(table: plan.Table, row: str, seed: int, work: pathlib.Path) -> None:
    """Runs the recipe with the settings of a row, and writes the content of its line."""
    spec = table.rows()[row]
    directory = cell_directory(work.resolve(), table.name, row, seed)
    os.chdir(work)
    module = importlib.import_module(f"keras_hybrid.recipes.{table.recipe}")
    # Seconds should be those of training alone, and the curves of Fig. 5 and 6 show it.
    recipe = dataclasses.replace(module.RECIPE, validation_batches=None)
    config = config_of(table, spec, seed, directory)
    data, model, student = recipe.prepare(config)
    results = recipe.train(config, data, varied(model, spec), student)
    content = {
        **planned(spec, row, seed),
        "config": {**dataclasses.asdict(config), "workdir": ""},
        "results": results,
        "epochs": in_five_digits(columns(directory / "metrics.csv")),
        "machine": machine(),
    }
    if table.recipe == "citypersons":
        detections = json.loads((directory / "detections.json").read_text())
        truth, subsets = data.test.ground_truth(), module.subsets_of(config)
        content["curves"] = miss_rate_curves(truth, detections, subsets)
    pathlib.Path(f"{directory}.json").write_text(json.dumps(content))


def config_of(
    table: plan.Table, row: plan.Row, seed: int, workdir: str | os.PathLike
) -> Any:
    """Returns the `Config` of the recipe for a run.

    On small images, paths change network at every stride, not only at the paper's, unless
    a row has other switch points.
    """
    module = importlib.import_module(f"keras_hybrid.recipes.{table.recipe}")
    everywhere = {"switch_points": "all"} if table.recipe == "imagenet" else {}
    settings = plan.settings_of(table, row, seed)
    return module.Config(**everywhere, **settings, workdir=str(workdir))


def planned(spec: plan.Row, row: str, seed: int) -> dict[str, Any]:
    """Returns what a line records of its row in addition to the recipe's settings."""
    names = "hybrid", "loss_factor", "adapter_norm", "adapter_rate"
    return {"row": row, "seed": seed, **{name: getattr(spec, name) for name in names}}


def varied(model: keras.Model, row: plan.Row) -> keras.Model:
    """Returns the model of a row, given the compiled one that the recipe prepared for it.

    It has the row's arguments of `HybridTransfer`, and starts from the same weights. A
    `loss_factor` scales all losses that are logged; in benchmarks/study/cifar10.jsonl it
    scales only the minimised one.
    """
    adapter = adapters.adapter_of(row)
    if not row.hybrid and row.loss_factor == 1 and adapter is adapters.Adapter:
        return model
    names = (
        *("switch_points", "balance", "paths_per_step"),
        *("teacher_dtype", "teacher_preprocessing"),
    )
    arguments = {name: getattr(model, name) for name in names}
    if model.plus:  # a loss belongs to one model
        arguments["plus"] = type(model.plus).from_config(model.plus.get_config())
    changed = keras_hybrid.HybridTransfer(
        model.teacher, model.student, adapter=adapter, **{**arguments, **row.hybrid}
    )
    adapters.start_alike(changed, model)
    compiled = model.get_compile_config()
    if row.loss_factor != 1:
        compiled["loss_weights"] = row.loss_factor
    changed.compile_from_config(compiled)
    return changed


def columns(path: str | os.PathLike) -> dict[str, list[float | None]]:
    """Returns the columns of a metrics.csv, by name, with None where they are empty."""
    rows = read_rows(path)
    return {name: [row.get(name) for row in rows] for name in rows[0]}


def in_five_digits(
    columns: Mapping[str, Sequence[float | None]],
) -> dict[str, list[float | None]]:
    """Rounds columns to five significant digits."""
    return {k: [v and float(f"{v:.5g}") for v in of_k] for k, of_k in columns.items()}


def miss_rate_curves(
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
    model = f"{cpu_model()}, {isa()}"
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
