"""Caltech-101, 30 labels a class: a student of ImageNet, and one from scratch.

Every method at equal epochs, beside the student alone with two and four times as many.
"""

import functools
from typing import Any

from benchmarks.study.cifar10 import top1
from benchmarks.study.plan import (
    NONE,
    OURS,
    RANDOM_TEACHER,
    Row,
    Table,
    baselines,
    best_weight,
    weight_rows,
)
from benchmarks.study.several import CALTECH, VGG16, XCEPTION

_EPOCHS = 10
VALIDATION = "caltech101_validation.npz"
"""25 training images of each class, and the other five as test images."""
XCEPTION_START = "xception_caltech101.keras"
PRETRAINED = "mobilenetv2_caltech101_{}.keras"
SCRATCH = "mobilenet_half_caltech101_{}.keras"
"""Students with initial weights, for the seed in their names."""
_TUNED = {"teacher": "runs/caltech101_teacher/Xception_0/student.keras"}
_RATES = 0.03, 0.1, 0.3
_KD = {"kd": (0.3, 1.0, 3.0, 10.0)}
_FEATURES = {"fitnet": (0.01, 0.1, 1.0), "at": (10.0, 100.0, 1000.0)}
_SETTINGS = {
    "data_dir": CALTECH,
    "epochs": _EPOCHS,
    "batch_size": 32,
    "balance": "dynamic",
    "teacher_dtype": "bfloat16",
}


def teacher_rows() -> dict[str, Row]:
    """Returns the run that trains KD's teacher on the same labels."""
    return {"Xception": Row({"method": "none", "student": XCEPTION_START}, seeds=(0,))}


def rate_rows() -> dict[str, Row]:
    """Returns the rows that tune the learning rate of the student alone."""
    return {
        f"{NONE} {rate:g}": Row({"method": "none", "learning_rate": rate}, seeds=(0,))
        for rate in _RATES
    }


def tuned_rows(rates: Table) -> dict[str, Row]:
    """Returns the rows that tune the baselines' weights at the chosen learning rate."""
    rate = best_weight(rates, NONE)
    if rate is None:
        return {}
    common = {"learning_rate": rate}
    return weight_rows(_KD, {"": {**_TUNED, **common}}) | weight_rows(
        _FEATURES, {"": {**XCEPTION, **common}}
    )


def rows(rates: Table, weights: Table) -> dict[str, Row]:
    """Returns the rows of a student whose rate and baselines have been tuned."""
    rate, at = best_weight(rates, NONE), best_weight(weights, "at")
    kd = best_weight(weights, "kd")
    if None in (rate, at, kd):
        return {}

    def row(method: str = "hybrid", **settings: Any) -> Row:
        return Row({"method": method, "learning_rate": rate, **settings})

    with_at = {"plus": "at", "plus_weight": at}
    return {
        NONE: row("none"),
        **{f"{NONE}, epochs x {n}": row("none", epochs=n * _EPOCHS) for n in (2, 4)},
        **baselines(weights, _KD, {**_TUNED, "learning_rate": rate}),
        **baselines(weights, _FEATURES, {**XCEPTION, "learning_rate": rate}),
        OURS: row(**XCEPTION),
        "ours, one path": row(**XCEPTION, paths_per_step=1),
        "ours, then alone": row(**XCEPTION, hybrid_epochs=_EPOCHS // 2),
        "ours + at": row(**XCEPTION, **with_at),
        "ours, one path + at": row(**XCEPTION, **with_at, paths_per_step=1),
        "ours + kd": row(**_TUNED, plus="kd", plus_weight=kd),
        "ours, teacher in float32": row(**XCEPTION, teacher_dtype=""),
        "ours, VGG16": row(**VGG16),
        "ours, VGG16 at random": row(teacher=RANDOM_TEACHER),
    }


def _case(name, student):
    settings = {**_SETTINGS, "student": student}
    tuning = {**settings, "data_dir": VALIDATION}
    rates = Table(f"{name}_rates", "imagenet", tuning, rate_rows, top1)
    weights = Table(
        f"{name}_weights", "imagenet", tuning, functools.partial(tuned_rows, rates), top1
    )
    of_both = functools.partial(rows, rates, weights)
    return rates, weights, Table(name, "imagenet", settings, of_both, top1)


TABLES = (
    Table(
        "caltech101_teacher",
        "imagenet",
        {**_SETTINGS, "learning_rate": 0.03},
        teacher_rows,
        top1,
    ),
    *_case("caltech101_pretrained", PRETRAINED),
    *_case("caltech101_scratch", SCRATCH),
)
