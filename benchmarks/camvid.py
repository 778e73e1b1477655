"""The table and the picture of CamVid in docs/results.md, from camvid.jsonl alone.

    python benchmarks/camvid.py

A line of that file is one run of recipes/cityscapes.py: its config.json, its
results.json, and the columns of its metrics.csv.
"""

import json
import pathlib
import statistics

import matplotlib
import numpy as np
from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).parents[1]
ROWS = {
    "": "`--method=none`, the student alone",
    "vgg16_imagenet.keras": "VGG16, ImageNet",
    "pose_mobilenet_coco_backbone.keras": "pose network, COCO",
}


def read():
    """Teacher's file -> seed -> run."""
    lines = (ROOT / "benchmarks" / "camvid.jsonl").read_text().splitlines()
    runs = {teacher: {} for teacher in ROWS}
    for run in map(json.loads, lines):
        runs[run["config"]["teacher"]][run["config"]["seed"]] = run
    return runs


def print_table(runs):
    print("| teacher | seed 0 | seed 1 | seed 2 | mean | standard deviation |")
    print("|---|---|---|---|---|---|")
    for teacher, seeds in runs.items():
        values = [seeds[seed]["results"]["miou"] for seed in sorted(seeds)]
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        cells = [f"{value:.2f}" for value in [*values, mean, deviation]]
        print(f"| {ROWS[teacher]} | {' | '.join(cells)} |")
    for teacher, seeds in runs.items():
        epochs = [t for run in seeds.values() for t in np.diff(run["epochs"]["seconds"])]
        print(f"{ROWS[teacher]}: {statistics.median(epochs):.0f} s an epoch (median)")
    every = [run["results"] for seeds in runs.values() for run in seeds.values()]
    print("largest TFLite error:", max(run["tflite_max_abs_error"] for run in every))
    print("TFLite bytes:", {run["tflite_bytes"] for run in every})
    print("skipped:", sum(len(run["skipped_images"]) for run in every))


def draw(runs, path):
    """IoU of each class, a dot a seed, and alpha over the epochs."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    colours = matplotlib.color_sequences["tab10"]
    for i, (teacher, seeds) in enumerate(runs.items()):
        for seed, run in seeds.items():
            iou = {"mean": run["results"]["miou"], **run["results"]["iou"]}
            left.scatter(
                np.arange(len(iou)) + 0.25 * (i - 1),
                list(iou.values()),
                color=colours[i],
                s=14,
                label=ROWS[teacher].replace("`", "") if seed == 0 else None,
            )
            if "balance" in run["epochs"]:
                alpha = run["epochs"]["balance"]
                right.plot(np.arange(1, 1 + len(alpha)), alpha, color=colours[i])
    left.set_xticks(np.arange(len(iou)), list(iou), rotation=45, ha="right")
    left.set(ylabel="IoU in %", title="each class on the test images, a dot a seed")
    left.legend()
    right.set(xlabel="epoch", ylabel="alpha", title="alpha, a line a seed")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    runs = read()
    print_table(runs)
    draw(runs, ROOT / "docs" / "camvid.png")
