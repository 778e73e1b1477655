"""Plots of the pages of `report`, from benchmarks/study/*.jsonl alone."""

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.study import gains, plan
from benchmarks.study.plan import NONE, OURS
from benchmarks.study.tables import TABLES

_COLOURS = matplotlib.color_sequences["tab10"]


def draw_cifar10(path: str | os.PathLike) -> None:
    """Plots figures of all rows, training curves (Fig. 5, 6), and alpha."""
    figure = Figure(figsize=(15, 8), layout="constrained")
    parts = figure.subplot_mosaic([["rows", "loss", "top1"], ["rows", "paths", "alpha"]])
    runs = plan.read("cifar10")
    draw_rows(
        parts["rows"], ["cifar10"], "top-1 in % on the test images, one dot per seed"
    )
    for row, label in ((NONE, "student alone"), (OURS, "hybrid forward")):
        parts["loss"].plot(
            *mean_curve(runs, row, "loss"), label=f"{label}, minimised loss"
        )
        parts["top1"].plot(*mean_curve(runs, row, "top1", 100), label=label)
    for path_name in ("student_first", "teacher_first"):
        parts["paths"].plot(
            *mean_curve(runs, OURS, f"{path_name}_top1", 100), label=f"{path_name} path"
        )
    parts["paths"].plot(*mean_curve(runs, OURS, "top1", 100), label="plain path")
    parts["alpha"].plot(*mean_curve(runs, OURS, "balance"), label="dynamic")
    parts["loss"].plot(
        *mean_curve(runs, OURS, "student_loss"), label="hybrid forward, L3"
    )
    titles = {
        "loss": "training loss (Fig. 5)",
        "top1": "training top-1 in % (Fig. 5)",
        "paths": "training top-1 of the paths in % (Fig. 6)",
        "alpha": "alpha",
    }
    for name, title in titles.items():
        parts[name].set(title=title, xlabel="epoch (mean over seeds)")
        parts[name].grid(alpha=0.3)
        parts[name].legend()
    figure.savefig(path, dpi=100)


def draw_camvid(path: str | os.PathLike) -> None:
    """Plots figures of all rows, IoU of each class, and alpha."""
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[2, 3, 2])
    tables = "camvid", "camvid_gpu"
    runs = [(*cell, run) for table in tables for cell, run in plan.read(table).items()]
    draw_rows(left, tables, "mIoU in %, one dot per run, orange on a GPU")
    ours = [row for row in TABLES["camvid"].rows() if row == NONE or OURS in row]
    for i, row in enumerate(ours):
        of_row = [run for name, _, run in runs if name == row]
        for j, run in enumerate(of_row):
            iou = run["results"]["iou"]
            middle.scatter(
                np.arange(len(iou)) + 0.2 * (i - (len(ours) - 1) / 2),
                list(iou.values()),
                color=_COLOURS[i],
                s=14,
                label=row if j == 0 else None,
            )
            if "balance" in run["epochs"]:
                alpha = run["epochs"]["balance"]
                right.plot(np.arange(1, 1 + len(alpha)), alpha, color=_COLOURS[i])
    middle.set_xticks(np.arange(len(iou)), list(iou), rotation=45, ha="right")
    middle.set(ylabel="IoU in %", title="each class, one dot per run")
    middle.legend(fontsize=8)
    right.set(xlabel="epoch", ylabel="alpha", title="alpha, one line per run")
    for axis in (middle, right):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def draw_people(path: str | os.PathLike) -> None:
    """Plots figures of all rows, miss rates over false positives, and alpha."""
    figure = Figure(figsize=(18, 4.5), layout="constrained")
    left, *rates, right = figure.subplots(1, 4)
    tables = "people", "people_gpu"
    runs = [(row, run) for table in tables for (row, _), run in plan.read(table).items()]
    draw_rows(left, tables, "MR^-2 in %, one dot per run, orange on a GPU")
    rows = [row for row in TABLES["people"].rows() if row in dict(runs)]
    subsets = {"learned": "training subset", "reasonable": "reasonable subset"}
    for i, row in enumerate(rows):
        of_row = [run for name, run in runs if name == row]
        for axis, (subset, name) in zip(rates, subsets.items(), strict=True):
            curves = 100 * np.array([run["curves"][subset] for run in of_row])
            fppi = of_row[0]["curves"]["fppi"]
            axis.plot(fppi, curves.mean(0), color=_COLOURS[i], label=row)
            quarters = np.quantile(curves, [0.25, 0.75], axis=0)
            axis.fill_between(fppi, *quarters, color=_COLOURS[i], alpha=0.15, lw=0)
            title = f"{name}, mean and quartiles of runs"
            axis.set(xscale="log", yscale="log", title=title)
            axis.set(xlabel="false positives per image", ylabel="miss rate in %")
        for run in of_row:
            alpha = run["epochs"].get("balance", [])
            right.plot(np.arange(1, 1 + len(alpha)), alpha, color=_COLOURS[i], lw=0.7)
    right.set(xlabel="epoch", ylabel="alpha", title="alpha, one line per run")
    for axis in (*rates, right):
        axis.grid(alpha=0.3)
    for axis in rates:
        limits, ticks = axis.get_ylim(), [10, 20, 30, 40, 50, 60, 80, 100]
        axis.set_yticks(ticks, ticks)
        axis.set_yticks([], minor=True)
        axis.set_ylim(limits)
        axis.legend()
    figure.savefig(path, dpi=100)


def draw_which_method(path: str | os.PathLike) -> None:
    """Plots each method's gain over its cost, a panel a situation."""
    known = [s for s in gains.SITUATIONS if _points(s)]
    methods = [*dict.fromkeys(method for s in known for method in s.rows)]
    rows = -(-len(known) // 3)
    figure = Figure(figsize=(14, 3.7 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, sharex=True).ravel()
    for axis in axes[len(known) :]:
        axis.remove()
    for axis, situation in zip(axes, known):
        for method, cost, gain, half in _points(situation):
            colour = matplotlib.color_sequences["tab20"][methods.index(method)]
            style = {"fmt": "o", "capsize": 4, "color": colour}
            axis.errorbar(cost, gain, half, label=method, **style)
        axis.axhline(0, color="black", lw=1)
        axis.plot(1, 0, "s", color="black", label="the student alone")
        axis.set(xscale="log", xlim=(0.8, 10))
        axis.set_title(textwrap.fill(situation.title, 42), fontsize=10)
        axis.set_xticks([1, 2, 3, 5, 8], [1, 2, 3, 5, 8])
        axis.set_xticks([], minor=True)
        axis.tick_params(labelbottom=True)
        axis.grid(alpha=0.3)
    labelled = [axis.get_legend_handles_labels() for axis in axes[: len(known)]]
    styles = {label: style for of_axis in labelled for style, label in zip(*of_axis)}
    figure.legend(styles.values(), styles.keys(), loc="outside right center")
    figure.supxlabel("seconds of training, in those of the student alone")
    figure.supylabel("points better than the student alone, with 95 % intervals")
    figure.savefig(path, dpi=100)


def _points(situation):
    """(method, cost, gain, half of its interval) of each method that has all three."""
    found = []
    for method, row in situation.rows.items():
        gain = gains.interval(gains.gains(situation.tables, row))
        if gain is None:
            continue
        cost = gains.cost(situation.tables, row)
        if not math.isnan(cost):
            found.append((method, cost, *gain))
    return found


PICTURES = {
    "cifar10": draw_cifar10,
    "camvid": draw_camvid,
    "people": draw_people,
    "which_method": draw_which_method,
}
"""Function that plots each picture, by the name of its file."""


def draw_rows(axis: Axes, tables: Sequence[str], title: str) -> None:
    """Plots a line per row: a dot per run in its table's colour, a bar at the mean."""
    figures = [plan.results(TABLES[table]) for table in tables]
    rows = [row for row in TABLES[tables[0]].rows() if any(row in f for f in figures)]
    for i, row in enumerate(rows):
        of_row = [of_table.get(row, []) for of_table in figures]
        for values, colour in zip(of_row, _COLOURS):
            axis.plot(values, [i] * len(values), "o", color=colour, alpha=0.6)
        axis.plot([np.mean(sum(of_row, []))], [i], "|", color="black", markersize=14)
    axis.set_yticks(range(len(rows)), rows)
    axis.invert_yaxis()
    axis.set(title=title)
    axis.grid(alpha=0.3)


def mean_curve(
    runs: Mapping[tuple[str, int], Mapping[str, Any]],
    row: str,
    name: str,
    factor: float = 1,
) -> tuple[np.ndarray | list[float], np.ndarray | list[float]]:
    """Returns (epochs, mean over the seeds) of a logged value; empty without runs."""
    curves = [run["epochs"][name] for (r, _), run in runs.items() if r == row]
    if not curves:
        return [], []
    values = factor * np.mean(curves, axis=0)
    return np.arange(1, 1 + len(values)), values
