"""Transformers teach a MobileNet on CIFAR-10: a plain and a hierarchical one."""

from benchmarks.study.cifar10 import MOBILENET, top1
from benchmarks.study.plan import NONE, Row, Table

_EPOCHS = 12
NETWORKS = {"ViT": "vit_start.keras", "PVT": "pvt_start.keras"}
"""Files of the transformers before training, by the name of the row that trains them."""


def teacher_rows() -> dict[str, Row]:
    """Returns the runs that train the teachers."""
    return {
        name: Row({"method": "none", "student": file}, seeds=(0,))
        for name, file in NETWORKS.items()
    }


def rows() -> dict[str, Row]:
    """Returns the rows of the students."""
    found = {NONE: Row({"method": "none"})}
    for name in NETWORKS:
        teacher = f"runs/{TEACHERS.name}/{name}_0/student.keras"
        found[f"ours, {name}"] = Row({"method": "hybrid", "teacher": teacher})
    return found


TEACHERS = Table(
    "transformers_teacher",
    "imagenet",
    {"data_dir": "cifar10.npz", "epochs": _EPOCHS, "batch_size": 64},
    teacher_rows,
    top1,
)
TABLES = (
    TEACHERS,
    Table(
        "transformers",
        "imagenet",
        {
            "data_dir": "cifar10_5k.npz",
            "student": MOBILENET,
            "epochs": 9,
            "batch_size": 64,
            "balance": "dynamic",
        },
        rows,
        top1,
    ),
)
