"""Kills a recipe ten times at random moments and compares it with an undisturbed run.

    python -m benchmarks.checks.sigkill | tee benchmarks/checks/sigkill.txt

A ResNet-26 teaches MobileNet on synthetic crops, with the plain sum of losses. One run is
left alone. The other gets SIGKILL ten times, is started again with the same flags each
time, and then runs to its end.
"""

import argparse
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from keras_hybrid.callbacks import read_rows  # before TensorFlow: oneDNN is on

# isort: split
import keras
import numpy as np

from benchmarks import machine

_FLAGS = "--epochs=16", "--batch_size=64", "--export=tflite"


def start(workdir: pathlib.Path) -> subprocess.Popen:
    """Starts the recipe."""
    command = [sys.executable, "-m", "keras_hybrid.recipes.imagenet", *_FLAGS]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def epochs_done(workdir: pathlib.Path) -> int:
    """Returns the number of epochs in metrics.csv."""
    rows = read_rows(workdir / "metrics.csv")
    return int(rows[-1]["epoch"]) + 1 if rows else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    print(f"{machine.describe()}; flags {' '.join(_FLAGS)}, seed {options.seed}")
    with tempfile.TemporaryDirectory() as directory:
        alone, killed = (pathlib.Path(directory, name) for name in ("alone", "killed"))
        begin = time.monotonic()
        assert start(alone).wait() == 0
        seconds = time.monotonic() - begin
        print(f"Left alone: {epochs_done(alone)} epochs in {seconds:.0f} s", flush=True)
        for kill in range(options.kills):
            process = start(killed)
            # Late enough for an epoch or two, early enough for ten kills within the run.
            moment = rng.uniform(0, seconds / 5)
            time.sleep(moment)
            process.kill()
            status = process.wait()
            print(
                f"Kill {kill + 1} after {moment:5.1f} s: status {status}, rows in "
                f"metrics.csv {epochs_done(killed)}",
                flush=True,
            )
        assert start(killed).wait() == 0
        print(f"Run to its end: {epochs_done(killed)} epochs")
        compare(alone, killed)


def compare(alone: pathlib.Path, killed: pathlib.Path) -> None:
    """Prints the differences between the results of two runs."""
    weights, others = (
        keras.saving.load_model(run / "student.keras").get_weights()
        for run in (alone, killed)
    )
    worst = max(np.abs(a - b).max() for a, b in zip(weights, others))
    rows, other_rows = (read_rows(run / "metrics.csv") for run in (alone, killed))
    same = all(
        {**row, "seconds": 0} == {**other, "seconds": 0}
        for row, other in zip(rows, other_rows, strict=True)
    )
    print(f"Student's weights: largest difference {worst:.1e}")
    print(f"Rows of metrics.csv, except seconds: {'the same' if same else 'different'}")
    left = sorted(path.name for path in killed.glob(".*"))
    print(f"Unfinished files: {left or 'none'}")


if __name__ == "__main__":
    main()
