"""Table and picture of CamVid's people in docs/results.md, from its .jsonl alone.

    python benchmarks/camvid_people.py

A line of that file is one run of recipes/citypersons.py: its config.json, its
results.json, the columns of its metrics.csv, and of two subsets' curves the miss rate at
each of the file's rates of false positives.
"""

import json
import pathlib
import statistics

import matplotlib
import numpy as np
from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).parents[1]
ROWS = {
    "none": "`--method=none`, the student alone",
    "hybrid": "pose network, COCO",
}
SUBSETS = "learned", "reasonable"


def read():
    """Method -> seed -> run."""
    lines = (ROOT / "benchmarks" / "camvid_people.jsonl").read_text().splitlines()
    runs = {method: {} for method in ROWS}
    for run in map(json.loads, lines):
        runs[run["config"]["method"]][run["config"]["seed"]] = run
    return runs


def print_table(runs):
    print("| people | method | seed 0 | seed 1 | seed 2 | mean | standard deviation |")
    print("|---|---|---|---|---|---|---|")
    for subset in SUBSETS:
        for method, seeds in runs.items():
            rates = [seeds[seed]["results"]["miss_rate"] for seed in sorted(seeds)]
            values = [rate[subset] for rate in rates]
            mean, deviation = statistics.mean(values), statistics.stdev(values)
            cells = [f"{value:.2f}" for value in [*values, mean, deviation]]
            print(f"| {subset} | {ROWS[method]} | {' | '.join(cells)} |")
    for method, seeds in runs.items():
        epochs = [t for run in seeds.values() for t in np.diff(run["epochs"]["seconds"])]
        print(f"{ROWS[method]}: {statistics.median(epochs):.0f} s an epoch (median)")
    every = [run["results"] for seeds in runs.values() for run in seeds.values()]
    print("largest TFLite error:", max(run["tflite_max_abs_error"] for run in every))
    print("TFLite bytes:", {run["tflite_bytes"] for run in every})
    print("skipped:", sum(len(run["skipped_images"]) for run in every))


def draw(runs, path):
    """Miss rates over false positives, and alpha over the epochs, a line a seed."""
    figure = Figure(figsize=(14, 4.5), layout="constrained")
    *rates, balance = figure.subplots(1, 3)
    for colour, (method, seeds) in zip(matplotlib.color_sequences["tab10"], runs.items()):
        for seed, run in seeds.items():
            label = ROWS[method].replace("`", "") if seed == 0 else None
            for axis, subset in zip(rates, SUBSETS, strict=True):
                axis.plot(
                    run["curves"]["fppi"],
                    100 * np.array(run["curves"][subset]),
                    color=colour,
                    label=label,
                )
            if "balance" in run["epochs"]:
                alpha = run["epochs"]["balance"]
                balance.plot(np.arange(1, 1 + len(alpha)), alpha, color=colour)
    for axis, subset in zip(rates, SUBSETS, strict=True):
        axis.set(xscale="log", yscale="log", title=f"{subset} people, a line a seed")
        axis.set(xlabel="false positives per image", ylabel="miss rate in %")
        axis.set_yticks([30, 40, 50, 60, 80, 100], [30, 40, 50, 60, 80, 100])
        axis.set_yticks([], minor=True)
        axis.legend()
    balance.set(xlabel="epoch", ylabel="alpha", title="alpha, a line a seed")
    for axis in (*rates, balance):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    runs = read()
    print_table(runs)
    draw(runs, ROOT / "docs" / "camvid_people.png")
