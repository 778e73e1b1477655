"""What methods gain over the student alone, and what they cost, by what a user has."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scipy import stats

from benchmarks.study import plan
from benchmarks.study.plan import NONE, OURS
from benchmarks.study.tables import TABLES


@dataclasses.dataclass(frozen=True)
class Situation:
    """A student and a teacher that a user has.

    Attributes:
        title: The situation in words.
        tables: Names of the tables with its runs. The time of a row is that of the first
            table that has it.
        rows: Row of the tables, by the name of the method.
    """

    title: str
    tables: Sequence[str]
    rows: Mapping[str, str]


SITUATIONS = (
    Situation(
        "CIFAR-10, 5000 images, 9 epochs, from scratch; a VGG16 of the same classes",
        ["cifar10"],
        {
            "student alone, longer": "none, as many seconds",
            "KD": "kd",
            "FitNet": "fitnet",
            "AT": "at",
            "ours": OURS,
            "ours, teacher at random": "ours, teacher at random",
        },
    ),
    Situation(
        "The same for 45 epochs, the teacher fine-tuned anew",
        ["cifar10_gpu"],
        {
            "KD": "kd",
            "AT": "at",
            "ours": OURS,
            "ours, teacher at random": "ours, teacher at random",
        },
    ),
    Situation(
        "CIFAR-10 for 45 epochs again, on a CPU; a VGG16 of the same classes",
        ["cifar10_long"],
        {
            "student alone, twice as long": "none, 2 times as long",
            "student alone, four times": "none, 4 times as long",
            "student alone, five times": "none, 5 times as long",
            "AT": "at",
            "ours, one path": "ours, one path",
            "ours + AT, one path": "ours + at, one path",
        },
    ),
    Situation(
        "CIFAR-10, 5000 images, from scratch; transformers of the same classes",
        ["transformers"],
        {"ours, ViT": "ours, ViT", "ours, PVT": "ours, PVT"},
    ),
    Situation(
        "Caltech-101, 30 images a class, from scratch; teachers with ImageNet weights",
        ["caltech101_several"],
        {
            "ours, VGG16": "VGG16",
            "ours, Xception": "Xception",
            "ours, both": "VGG16 and Xception",
        },
    ),
    Situation(
        "Caltech-101, 30 images a class, a student of ImageNet; an Xception of ImageNet",
        ["caltech101_pretrained"],
        {
            "student alone, twice as long": "none, 2 times as long",
            "student alone, four times": "none, 4 times as long",
            "ours": OURS,
            "ours, one path": "ours, one path",
            "ours, then alone": "ours, then alone",
        },
    ),
    Situation(
        "A segmenter on CamVid, from scratch; a VGG16 of ImageNet",
        ["camvid", "camvid_gpu"],
        {"FitNet": "VGG16, fitnet", "AT": "VGG16, at", "ours": "VGG16, ours"},
    ),
    Situation(
        "A segmenter on CamVid, from scratch; a pose network",
        ["camvid", "camvid_gpu"],
        {"FitNet": "pose, fitnet", "AT": "pose, at", "ours": "pose, ours"},
    ),
    Situation(
        "A detector of people on CamVid, from scratch; a pose network",
        ["people", "people_gpu"],
        {"FitNet": "fitnet", "AT": "at", "ours": OURS},
    ),
    Situation(
        "A detector of people, half as many steps; a pose network and an Xception",
        ["people_several"],
        {
            "ours, pose network": "pose",
            "ours, Xception": "Xception",
            "ours, both": "pose and Xception",
        },
    ),
)


def gains(
    tables: Sequence[str],
    row: str,
    control: str = NONE,
    figure: Callable[[dict[str, Any]], float] | None = None,
) -> list[float]:
    """Returns by how much a row is better than `control`, for each seed of both.

    Args:
        tables: Names of tables with these rows. Seeds are paired within each.
        row: The row.
        control: The row that it is compared with.
        figure: Function from results to the figure, or None for the tables' own.
    """
    spec = TABLES[tables[0]]
    figure = figure or spec.result
    found = []
    for runs in map(plan.read, tables):
        seeds = sorted(s for name, s in runs if name == row and (control, s) in runs)
        for seed in seeds:
            ours, theirs = (runs[name, seed]["results"] for name in (row, control))
            found.append(spec.better * (figure(ours) - figure(theirs)))
    return found


def interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Returns the mean of paired differences and half of its 95 % confidence interval.

    By Student's t; None for less than two.
    """
    if len(differences) < 2:
        return None
    student_t = stats.t.ppf(0.975, len(differences) - 1)
    half = student_t * statistics.stdev(differences) / len(differences) ** 0.5
    return statistics.mean(differences), float(half)


def cost(tables: Sequence[str], row: str) -> float:
    """Returns the seconds of a row's training in those of the student alone.

    NaN if they have not been run on the same processor.

    Args:
        tables: Names of tables; those of the first one that has the row count.
        row: The row.
    """
    table = next(t for t in tables if any(name == row for name, _ in plan.read(t)))
    ours, theirs = (_seconds(table, name) for name in (row, NONE))
    return ours / theirs


def _seconds(table, row):
    run = next(run for (name, _), run in plan.read(table).items() if name == row)
    return len(run["epochs"]["seconds"]) * plan.epoch_seconds(table, row)
