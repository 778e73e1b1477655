"""What the study is made of: a table is an experiment, a row is a method.

The rows of a table share data, schedule, student and budget, except for what a row
changes. The modules that `tables` lists have the tables; `run` and `gpu` run them, and
`report` reports them.
"""

import collections
import dataclasses
import json
import math
import pathlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

LINES = pathlib.Path(__file__).parent
"""Folder of the files TABLE.jsonl, which have a line per run."""
COSTS = "costs"
"""Name of the file of what steps cost."""
SEEDS = 0, 1, 2
MORE_SEEDS = *SEEDS, 3, 4, 5
MANY_SEEDS = tuple(range(20))
NONE, OURS = "none", "ours"

RANDOM_TEACHER = "vgg16_random.keras"
# Computes in bfloat16: on processors with units for it, a step takes a third less time.
HALF_VGG16 = "vgg16_imagenet_bfloat16.keras"
POSE = {
    "teacher": "pose_mobilenet_coco_backbone.keras",
    "teacher_preprocessing": "bgr",
}
FEATURE_GRIDS = {
    "fitnet": (0.001, 0.01, 0.1, 1.0),
    "at": (1.0, 10.0, 100.0, 1000.0),
}
"""Weights to try for the baselines that compare feature maps of other tasks."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row: a run for each seed.

    Attributes:
        settings: Fields of the recipe's `Config`, in addition to those of the table.
        hybrid: Arguments of `HybridTransfer` that the recipe leaves at their defaults.
        loss_factor: Factor of the hybrid loss.
        adapter_norm: Whether batch normalization follows each adapter.
        adapter_rate: Factor of the learning rate of the adapters.
        seeds: Seeds to run.
    """

    settings: dict[str, Any]
    hybrid: dict[str, Any] = dataclasses.field(default_factory=dict)
    loss_factor: float = 1.0
    adapter_norm: bool = False
    adapter_rate: float = 1.0
    seeds: tuple[int, ...] = SEEDS


@dataclasses.dataclass(frozen=True)
class Table:
    """An experiment.

    Attributes:
        name: Name of the table, and of the file of its lines.
        recipe: Name of the module in keras_hybrid.recipes.
        settings: Fields of its `Config` that all rows share. The student may have a place
            for the seed, as in `"mobilenet_{}.keras"`.
        rows: Function that returns the rows by name; it may read results.
        result: Function from the content of results.json to the figure that is compared,
            in percent.
        better: 1 if higher is better, -1 if lower is.
        gpu: Whether `gpu` runs it.
    """

    name: str
    recipe: str
    settings: dict[str, Any]
    rows: Callable[[], dict[str, Row]]
    result: Callable[[dict[str, Any]], float]
    better: int = 1
    gpu: bool = False


def settings_of(table: Table, row: Row, seed: int) -> dict[str, Any]:
    """Returns the fields of the recipe's `Config` for one run."""
    settings = {**table.settings, **row.settings, "seed": seed}
    if "student" in settings:
        settings["student"] = settings["student"].format(seed)
    return settings


def read(table: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Reads the lines of a table, by row and seed."""
    return {(run["row"], run["seed"]): run for run in lines(table)}


def lines(name: str) -> list[dict[str, Any]]:
    """Returns the content of the lines of a file NAME.jsonl; none if there is none."""
    path = LINES / f"{name}.jsonl"
    texts = path.read_text().splitlines() if path.exists() else []
    return list(map(json.loads, texts))


def results(table: Table) -> dict[str, list[float]]:
    """Returns the figures of each row that has been run, in the order of the seeds."""
    figures = {}
    for (row, _), run in sorted(read(table.name).items(), key=lambda item: item[0][1]):
        figures.setdefault(row, []).append(table.result(run["results"]))
    return figures


def weight_rows(
    grids: Mapping[str, Sequence[float]], teachers: Mapping[str, dict[str, Any]]
) -> dict[str, Row]:
    """Returns the rows that tune the weight of each baseline on validation images.

    Args:
        grids: Weights to try, by baseline.
        teachers: Fields of the recipe's `Config`, by what precedes a baseline's name.
    """
    return {
        f"{teacher}{method} {weight:g}": Row(
            {"method": method, "method_weight": weight, **settings}, seeds=(0,)
        )
        for teacher, settings in teachers.items()
        for method, weights in grids.items()
        for weight in weights
    }


def best_value(table: Table, method: str) -> float | None:
    """Returns the tuned value with the best figure, None until all have been tried.

    Args:
        table: Table that tunes a baseline's weight or a learning rate.
        method: Name of the method, after that of its teacher if there are several.
    """
    figures = results(table)
    rows = [row for row in table.rows() if row.rpartition(" ")[0] == method]
    if not rows or not figures.keys() >= set(rows):
        return None
    best = max(rows, key=lambda row: table.better * figures[row][0])
    return float(best.rpartition(" ")[2])


def baselines(
    table: Table,
    methods: Iterable[str],
    settings: Mapping[str, Any],
    teacher: str = "",
) -> dict[str, Row]:
    """Returns a row for each baseline whose weight has been tuned.

    Args:
        table: Table that tunes the weights.
        methods: Names of the baselines.
        settings: Fields of the recipe's `Config` for the teacher.
        teacher: What precedes a baseline's name in `table`.
    """
    weights = {method: best_value(table, teacher + method) for method in methods}
    return {
        teacher + method: Row({"method": method, "method_weight": weight, **settings})
        for method, weight in weights.items()
        if weight is not None
    }


def epoch_seconds(table: str, row: str) -> float:
    """Returns the seconds of an epoch: the fastest one, since other work slows others.

    Where hybrid paths run in some of the epochs only, the mean over all epochs, given the
    fastest one of each kind. The first epoch does not count, since it includes
    compilation. Seeds beyond the first three do not count either, so that a budget does
    not change when more are run; nor do runs on another processor than most of the
    table's have. NaN if no run is left.
    """
    runs = read(table)
    processors = collections.Counter(r["machine"]["processor"] for r in runs.values())
    ((most_common, _),) = processors.most_common(1)
    epochs = [
        run["epochs"]
        for run in (runs.get((row, seed)) for seed in SEEDS)
        if run and run["machine"]["processor"] == most_common
    ]
    if not epochs:
        return math.nan
    fastest = {}
    for of_run in epochs:
        times = of_run["seconds"]
        for is_hybrid, begin, end in zip(_are_hybrid(of_run)[1:], times, times[1:]):
            fastest[is_hybrid] = min(end - begin, fastest.get(is_hybrid, math.inf))
    return statistics.mean(fastest[is_hybrid] for is_hybrid in _are_hybrid(epochs[0]))


def _are_hybrid(epochs):
    return [value is not None for value in epochs.get("balance", epochs["seconds"])]
