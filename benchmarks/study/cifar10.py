"""Table 1, Fig. 5, 6 and 9, controls and ablations: CIFAR-10."""

import dataclasses
import functools
from typing import Any

from benchmarks.study.plan import (
    MORE_SEEDS,
    NONE,
    OURS,
    RANDOM_TEACHER,
    SEEDS,
    Row,
    Table,
    baselines,
    epoch_seconds,
    read,
    weight_rows,
)

EPOCHS = 9
TUNED_TEACHER = "runs/cifar10_teacher/VGG16_0/student.keras"
IMAGENET_TEACHER = "vgg16_start.keras"
GPU_TEACHER = "vgg16_gpu.keras"
MOBILENET = "mobilenet_{}.keras"
"""Student with initial weights, for the seed in its name."""
_TUNED = {"teacher": TUNED_TEACHER}
_GRIDS = {
    "kd": (0.3, 1.0, 3.0, 10.0),
    "fitnet": (0.01, 0.1, 1.0),
    "at": (10.0, 100.0, 1000.0, 10000.0),
    "ft": (50.0, 500.0, 5000.0),
    "ab": (0.001, 0.01, 0.1, 1.0),
    "overhaul": (0.001, 0.01, 0.1),
}
SETTINGS = {
    "data_dir": "cifar10_5k.npz",
    "student": MOBILENET,
    "epochs": EPOCHS,
    "batch_size": 64,
    "balance": "dynamic",
}
# Five times as many epochs, on a GPU.
_GPU_SETTINGS = {**SETTINGS, "student": "MobileNet", "epochs": 5 * EPOCHS}


def top1(results: dict[str, Any]) -> float:
    """Returns top-1 accuracy in percent."""
    return results["top1"]


def teacher_rows() -> dict[str, Row]:
    """Returns the run that fine-tunes the teacher."""
    return {"VGG16": Row({"method": "none", "student": IMAGENET_TEACHER}, seeds=(0,))}


_TEACHER_SETTINGS = {"epochs": 4, "learning_rate": 0.01}
TEACHER = Table(
    "cifar10_teacher", "imagenet", {**SETTINGS, **_TEACHER_SETTINGS}, teacher_rows, top1
)
GPU_TEACHER_TABLE = Table(
    "cifar10_gpu_teacher",
    "imagenet",
    {**_GPU_SETTINGS, **_TEACHER_SETTINGS},
    teacher_rows,
    top1,
    gpu=True,
)
# Weights are tuned with one seed and a third of the schedule.
WEIGHTS = Table(
    "cifar10_weights",
    "imagenet",
    {**SETTINGS, "data_dir": "cifar10_validation.npz", "epochs": 3},
    functools.partial(weight_rows, _GRIDS, {"": _TUNED}),
    top1,
)


def rows() -> dict[str, Row]:
    """Returns the rows of the main table, of the controls and of the ablations."""
    ours = {"method": "hybrid", **_TUNED}
    few = {"data_dir": "cifar10_500.npz"}
    found = {
        NONE: Row({"method": "none"}),
        OURS: Row(ours, {"track_paths": True}),
        "ours, plain sum": Row({**ours, "balance": "1"}),
        "ours, teacher of ImageNet": Row({**ours, "teacher": IMAGENET_TEACHER}),
        "ours, teacher at random": Row({**ours, "teacher": RANDOM_TEACHER}),
    }
    found |= baselines(WEIGHTS, _GRIDS, _TUNED)
    found |= {
        "none, rate times 3": Row({"method": "none", "learning_rate": 0.3}),
        "none, rate / 3": Row({"method": "none", "learning_rate": 0.1 / 3}),
        "ours, loss / 3": Row(ours, loss_factor=1 / 3),
        "ours, adapters with batch norm": Row(ours, adapter_norm=True),
        "ours, adapters' rate times 10": Row(ours, adapter_rate=10.0),
        "ours, batch norm of all paths": Row(ours, {"student_batch_norm": "all"}),
        "ours, two switches": Row(ours, {"switch_points": [4, 16]}),
        **{f"ours, alpha {a}": Row({**ours, "balance": a}) for a in ("0.1", "0.3", "3")},
        "none, 500 images": Row({"method": "none", **few}),
        "ours, 500 images": Row({**ours, **few}),
        "ours, 500 images, two switches": Row(
            {**ours, **few}, {"switch_points": [4, 16]}
        ),
        "ours, 500 images, adapters' rate times 10": Row(
            {**ours, **few}, adapter_rate=10.0
        ),
        "none, 500 images, 3 epochs": Row({"method": "none", **few, "epochs": 3}),
        "ours, 500 images, 3 epochs": Row({**ours, **few, "epochs": 3}),
    }
    if {(row, seed) for row in (NONE, OURS) for seed in SEEDS} <= read("cifar10").keys():
        ratio = epoch_seconds("cifar10", OURS) / epoch_seconds("cifar10", NONE)
        epochs = round(EPOCHS * ratio)
        found["none, as many seconds"] = Row({"method": "none", "epochs": epochs})
    for name in {NONE, "kd", "at", OURS} & found.keys():
        found[name] = dataclasses.replace(found[name], seeds=MORE_SEEDS)
    return found


def gpu_rows() -> dict[str, Row]:
    """Returns the rows of the longer schedule."""
    tuned = {"teacher": GPU_TEACHER}
    ours = {"method": "hybrid", **tuned}
    return {
        NONE: Row({"method": "none"}),
        **baselines(WEIGHTS, ("kd", "at"), tuned),
        "ours, plain sum": Row({**ours, "balance": "1"}),
        "ours, teacher at random": Row({**ours, "teacher": RANDOM_TEACHER}),
        OURS: Row(ours),
    }


TABLES = (
    TEACHER,
    WEIGHTS,
    Table("cifar10", "imagenet", SETTINGS, rows, top1),
    GPU_TEACHER_TABLE,
    Table("cifar10_gpu", "imagenet", _GPU_SETTINGS, gpu_rows, top1, gpu=True),
)
