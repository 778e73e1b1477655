"""Plan of the study: a table is an experiment of the paper, a row is a method.

The rows of a table share data, schedule, student and budget, except for what a row
changes. `study.py` and `study_gpu.py` run them, and `study_report.py` reports them.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

LINES = pathlib.Path(__file__).parent / "study"
SEEDS = 0, 1, 2
MORE_SEEDS = *SEEDS, 3, 4, 5
MANY_SEEDS = tuple(range(20))
NONE, OURS = "none", "ours"

# Computes in bfloat16: on processors with units for it, a step takes a third less time.
HALF_VGG16 = "vgg16_imagenet_bfloat16.keras"
_VGG16 = {"teacher": HALF_VGG16, "teacher_preprocessing": "torch"}
_POSE = {
    "teacher": "pose_mobilenet_coco_backbone.keras",
    "teacher_preprocessing": "bgr",
}


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
        recipe: Name of the module in keras_hybrid.recipes.
        settings: Fields of its `Config` that all rows share.
        rows: Function that returns the rows by name; it may read results.
        result: Function from the content of results.json to the figure that is compared,
            in percent.
        better: 1 if higher is better, -1 if lower is.
        gpu: Whether `study_gpu.py` runs it.
    """

    recipe: str
    settings: dict[str, Any]
    rows: Callable[[], dict[str, Row]]
    result: Callable[[dict[str, Any]], float]
    better: int = 1
    gpu: bool = False


def settings_of(table: Table, row: Row, seed: int) -> dict[str, Any]:
    """Returns the fields of the recipe's `Config` for one run."""
    settings = {**table.settings, **row.settings, "seed": seed}
    if settings.get("student") == MOBILENET:
        settings["student"] = MOBILENET.format(seed)
    return settings


def read(table: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Reads the lines of a table, by row and seed."""
    path = LINES / f"{table}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    runs = map(json.loads, lines)
    return {(run["row"], run["seed"]): run for run in runs}


def results(table: str) -> dict[str, list[float]]:
    """Returns the figures of each row that has been run, in the order of the seeds."""
    figures = {}
    for (row, _), run in sorted(read(table).items(), key=lambda item: item[0][1]):
        figures.setdefault(row, []).append(TABLES[table].result(run["results"]))
    return figures


def _weights(grids, teachers):
    """Returns the rows that tune the weight of each baseline on validation images."""
    return {
        f"{teacher}{method} {weight:g}": Row(
            {"method": method, "method_weight": weight, **settings}, seeds=(0,)
        )
        for teacher, settings in teachers.items()
        for method, weights in grids.items()
        for weight in weights
    }


def best_weight(table: str, method: str) -> float | None:
    """Returns a baseline's weight with the best figure, None until all have been tried.

    Args:
        table: Name of the table that tunes the weight.
        method: Name of the baseline, after that of its teacher if there are several.
    """
    better, figures = TABLES[table].better, results(table)
    rows = [row for row in TABLES[table].rows() if row.rpartition(" ")[0] == method]
    if not figures.keys() >= set(rows):
        return None
    best = max(rows, key=lambda row: better * figures[row][0])
    return float(best.rpartition(" ")[2])


def _baselines(table, grids, settings, teacher=""):
    """Returns a row for each baseline whose weight has been tuned in `table`."""
    weights = {method: best_weight(table, teacher + method) for method in grids}
    return {
        teacher + method: Row({"method": method, "method_weight": weight, **settings})
        for method, weight in weights.items()
        if weight is not None
    }


def epoch_seconds(table: str, row: str) -> float:
    """Returns the seconds of the fastest epoch, since other work slows epochs down.

    The first epoch does not count, since it includes compilation. Seeds beyond the first
    three do not count either, so that a budget does not change when more are run.
    """
    runs = read(table)
    runs = [runs[row, seed] for seed in SEEDS if (row, seed) in runs]
    times = [run["epochs"]["seconds"] for run in runs]
    return min(b - a for t in times for a, b in zip(t, t[1:]))


# Table 1, Fig. 5, 6 and 9, controls and ablations: CIFAR-10.

TUNED_TEACHER = "runs/cifar10_teacher/VGG16_0/student.keras"
IMAGENET_TEACHER, RANDOM_TEACHER = "vgg16_start.keras", "vgg16_random.keras"
GPU_TEACHER_TABLE, GPU_TEACHER = "cifar10_gpu_teacher", "vgg16_gpu.keras"
_TUNED = {"teacher": TUNED_TEACHER}
_CIFAR10_GRIDS = {
    "kd": (0.3, 1.0, 3.0, 10.0),
    "fitnet": (0.01, 0.1, 1.0),
    "at": (10.0, 100.0, 1000.0, 10000.0),
    "ft": (50.0, 500.0, 5000.0),
    "ab": (0.001, 0.01, 0.1, 1.0),
    "overhaul": (0.001, 0.01, 0.1),
}
CIFAR10_EPOCHS = 9
MOBILENET = "mobilenet_{}.keras"
_CIFAR10 = {
    "data_dir": "cifar10_5k.npz",
    "student": MOBILENET,
    "epochs": CIFAR10_EPOCHS,
    "batch_size": 64,
    "balance": "dynamic",
}


def _cifar10_teacher():
    settings = {"method": "none", "student": IMAGENET_TEACHER}
    return {"VGG16": Row(settings, seeds=(0,))}


def _cifar10():
    ours = {"method": "hybrid", **_TUNED}
    few = {"data_dir": "cifar10_500.npz"}
    rows = {
        NONE: Row({"method": "none"}),
        OURS: Row(ours, {"track_paths": True}),
        "ours, plain sum": Row({**ours, "balance": "1"}),
        "ours, teacher of ImageNet": Row({**ours, "teacher": IMAGENET_TEACHER}),
        "ours, teacher at random": Row({**ours, "teacher": RANDOM_TEACHER}),
    }
    rows |= _baselines("cifar10_weights", _CIFAR10_GRIDS, _TUNED)
    rows |= {
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
        epochs = round(CIFAR10_EPOCHS * ratio)
        rows["none, as many seconds"] = Row({"method": "none", "epochs": epochs})
    for name in {NONE, "kd", "at", OURS} & rows.keys():
        rows[name] = dataclasses.replace(rows[name], seeds=MORE_SEEDS)
    return rows


# Five times as many epochs, on a GPU.

_CIFAR10_GPU = {**_CIFAR10, "student": "MobileNet", "epochs": 5 * CIFAR10_EPOCHS}


def _cifar10_gpu_teacher():
    return {"VGG16": Row({"method": "none", "student": IMAGENET_TEACHER}, seeds=(0,))}


def _cifar10_gpu():
    tuned = {"teacher": GPU_TEACHER}
    ours = {"method": "hybrid", **tuned}
    grids = {method: _CIFAR10_GRIDS[method] for method in ("kd", "at")}
    return {
        NONE: Row({"method": "none"}),
        **_baselines("cifar10_weights", grids, tuned),
        "ours, plain sum": Row({**ours, "balance": "1"}),
        "ours, teacher at random": Row({**ours, "teacher": RANDOM_TEACHER}),
        OURS: Row(ours),
    }


# Tables 2 and 3: CamVid's classes.

_CAMVID = {
    "data_dir": "camvid",
    "student": "MobileNet",
    "student_weights": "random",
    "crop_height": 256,
    "crop_width": 320,
    "output_stride": 16,
    "batch_size": 4,
    "steps": 910,
    "learning_rate": 0.01,
}
_CAMVID_TEACHERS = {"VGG16, ": _VGG16, "pose, ": _POSE}
# The pose network ends at stride 8. By default, so do the paths, after five blocks of the
# student.
_POSE_TO_THE_END = [
    ["MobilenetV1_Conv2d_1_pointwise_Relu", "conv_pw_1_relu"],
    ["MobilenetV1_Conv2d_3_pointwise_Relu", "conv_pw_3_relu"],
    ["MobilenetV1_Conv2d_7_pointwise_Relu", "conv_pw_5_relu"],
    ["MobilenetV1_Conv2d_11_pointwise_Relu", "conv_pw_13_relu"],
]
_FEATURE_GRIDS = {
    "fitnet": (0.001, 0.01, 0.1, 1.0),
    "at": (1.0, 10.0, 100.0, 1000.0),
}


def _camvid():
    rows = {NONE: Row({"method": "none"})}
    for name, teacher in _CAMVID_TEACHERS.items():
        rows |= _baselines("camvid_weights", _FEATURE_GRIDS, teacher, name)
        rows[f"{name}{OURS}"] = Row({"method": "hybrid", **teacher})
    random = {"method": "hybrid", "teacher": RANDOM_TEACHER}
    rows[f"VGG16 at random, {OURS}"] = Row(random)
    rows[f"pose, {OURS}, paths to the student's end"] = dataclasses.replace(
        rows[f"pose, {OURS}"], hybrid={"switch_points": _POSE_TO_THE_END}
    )
    return rows


# Table 4: CamVid's people.

_PEOPLE = {
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


def _people():
    rows = {NONE: Row({"method": "none"}, seeds=MORE_SEEDS)}
    rows |= _baselines("people_weights", _FEATURE_GRIDS, _POSE)
    rows[OURS] = Row({"method": "hybrid", **_POSE}, seeds=MORE_SEEDS)
    return rows


def _people_gpu():
    """Returns the rows of `_people` with more seeds, since results vary a lot by seed."""
    return {
        name: dataclasses.replace(
            row, seeds=MANY_SEEDS if name in (NONE, OURS) else MORE_SEEDS
        )
        for name, row in _people().items()
    }


def _top1(results):
    return results["top1"]


def _miou(results):
    return results["miou"]


def _training_subset(results):
    return results["miss_rate"]["learned"]


# Weights are tuned with one seed and a third to a half of the schedule.
_VALIDATION = {"data_dir": "camvid_validation"}
TABLES = {
    "cifar10_teacher": Table(
        "imagenet",
        {**_CIFAR10, "epochs": 4, "learning_rate": 0.01},
        _cifar10_teacher,
        _top1,
    ),
    "cifar10_weights": Table(
        "imagenet",
        {**_CIFAR10, "data_dir": "cifar10_validation.npz", "epochs": 3},
        functools.partial(_weights, _CIFAR10_GRIDS, {"": _TUNED}),
        _top1,
    ),
    "cifar10": Table("imagenet", _CIFAR10, _cifar10, _top1),
    GPU_TEACHER_TABLE: Table(
        "imagenet",
        {**_CIFAR10_GPU, "epochs": 4, "learning_rate": 0.01},
        _cifar10_gpu_teacher,
        _top1,
        gpu=True,
    ),
    "cifar10_gpu": Table("imagenet", _CIFAR10_GPU, _cifar10_gpu, _top1, gpu=True),
    "camvid_weights": Table(
        "cityscapes",
        {**_CAMVID, **_VALIDATION, "steps": 273},
        functools.partial(_weights, _FEATURE_GRIDS, _CAMVID_TEACHERS),
        _miou,
    ),
    "camvid": Table("cityscapes", _CAMVID, _camvid, _miou),
    "camvid_gpu": Table("cityscapes", _CAMVID, _camvid, _miou, gpu=True),
    "people_weights": Table(
        "citypersons",
        {**_PEOPLE, **_VALIDATION, "steps": 683},
        functools.partial(_weights, _FEATURE_GRIDS, {"": _POSE}),
        _training_subset,
        better=-1,
    ),
    "people": Table("citypersons", _PEOPLE, _people, _training_subset, better=-1),
    "people_gpu": Table(
        "citypersons", _PEOPLE, _people_gpu, _training_subset, better=-1, gpu=True
    ),
}
