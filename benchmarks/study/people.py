"""Table 4: CamVid's people."""

import dataclasses
import functools
from typing import Any

from benchmarks.study.plan import (
    FEATURE_GRIDS,
    MANY_SEEDS,
    MORE_SEEDS,
    NONE,
    OURS,
    POSE,
    Row,
    Table,
    baselines,
    weight_rows,
)

SETTINGS = {
    "data_dir": "camvid",
    "student_weights": "random",
    "upscale": 2.0,
    "min_height": 20.0,
    "group_aspect": 0.5,
    "crop_height": 256,
    "crop_width": 256,
    "batch_size": 4,
    "channels": 64,
    "units": 256,
    "steps": 1365,
    "learning_rate": 2e-3,
}


def training_subset(results: dict[str, Any]) -> float:
    """Returns MR^-2 in percent for all people of a height that was trained on."""
    return results["miss_rate"]["learned"]


# Weights are tuned with one seed and half of the schedule.
WEIGHTS = Table(
    "people_weights",
    "citypersons",
    {**SETTINGS, "data_dir": "camvid_validation", "steps": 683},
    functools.partial(weight_rows, FEATURE_GRIDS, {"": POSE}),
    training_subset,
    better=-1,
)


def rows() -> dict[str, Row]:
    """Returns the rows."""
    found = {NONE: Row({"method": "none"}, seeds=MORE_SEEDS)}
    found |= baselines(WEIGHTS, FEATURE_GRIDS, POSE)
    found[OURS] = Row({"method": "hybrid", **POSE}, seeds=MORE_SEEDS)
    return found


def gpu_rows() -> dict[str, Row]:
    """Returns the rows with more seeds, since results vary a lot by seed."""
    return {
        name: dataclasses.replace(
            row, seeds=MANY_SEEDS if name in (NONE, OURS) else MORE_SEEDS
        )
        for name, row in rows().items()
    }


TABLES = (
    WEIGHTS,
    Table("people", "citypersons", SETTINGS, rows, training_subset, better=-1),
    Table(
        "people_gpu",
        "citypersons",
        SETTINGS,
        gpu_rows,
        training_subset,
        better=-1,
        gpu=True,
    ),
)
