"""Tables 2 and 3: CamVid's classes."""

import dataclasses
import functools
from typing import Any

from benchmarks.study.plan import (
    FEATURE_GRIDS,
    HALF_VGG16,
    NONE,
    OURS,
    POSE,
    RANDOM_TEACHER,
    Row,
    Table,
    baselines,
    weight_rows,
)

SETTINGS = {
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
_VGG16 = {"teacher": HALF_VGG16, "teacher_preprocessing": "torch"}
_TEACHERS = {"VGG16, ": _VGG16, "pose, ": POSE}
# The pose network ends at stride 8. By default, so do the paths, after five blocks of the
# student.
_POSE_TO_THE_END = [
    ["MobilenetV1_Conv2d_1_pointwise_Relu", "conv_pw_1_relu"],
    ["MobilenetV1_Conv2d_3_pointwise_Relu", "conv_pw_3_relu"],
    ["MobilenetV1_Conv2d_7_pointwise_Relu", "conv_pw_5_relu"],
    ["MobilenetV1_Conv2d_11_pointwise_Relu", "conv_pw_13_relu"],
]


def miou(results: dict[str, Any]) -> float:
    """Returns mIoU in percent."""
    return results["miou"]


# Weights are tuned with one seed and a third of the schedule.
WEIGHTS = Table(
    "camvid_weights",
    "cityscapes",
    {**SETTINGS, "data_dir": "camvid_validation", "steps": 273},
    functools.partial(weight_rows, FEATURE_GRIDS, _TEACHERS),
    miou,
)


def rows() -> dict[str, Row]:
    """Returns the rows of both machines."""
    found = {NONE: Row({"method": "none"})}
    for name, teacher in _TEACHERS.items():
        found |= baselines(WEIGHTS, FEATURE_GRIDS, teacher, name)
        found[f"{name}{OURS}"] = Row({"method": "hybrid", **teacher})
    random = {"method": "hybrid", "teacher": RANDOM_TEACHER}
    found[f"VGG16 at random, {OURS}"] = Row(random)
    found[f"pose, {OURS}, paths to the student's end"] = dataclasses.replace(
        found[f"pose, {OURS}"], hybrid={"switch_points": _POSE_TO_THE_END}
    )
    return found


TABLES = (
    WEIGHTS,
    Table("camvid", "cityscapes", SETTINGS, rows, miou),
    Table("camvid_gpu", "cityscapes", SETTINGS, rows, miou, gpu=True),
)
