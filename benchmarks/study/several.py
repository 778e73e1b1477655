"""Two teachers of one student, beside each of them alone: Caltech-101 and CamVid."""

from benchmarks.study import people
from benchmarks.study.cifar10 import top1
from benchmarks.study.plan import NONE, POSE, Row, Table

XCEPTION_FILE = "xception_imagenet.keras"
CALTECH = "caltech101_64px.npz"
"""Photographs squeezed to 64x64 pixels, at which VGG16 is affordable on a CPU."""
VGG16 = {"teacher": "vgg16_imagenet.keras", "teacher_preprocessing": "torch"}
XCEPTION = {"teacher": XCEPTION_FILE, "teacher_preprocessing": "tf"}


def _both(one, other):
    return {name: f"{one[name]},{other[name]}" for name in one}


def _rows(**teachers):
    rows = {NONE: Row({"method": "none"})}
    for name, settings in teachers.items():
        rows[name.replace("_", " ")] = Row({"method": "hybrid", **settings})
    return rows


def classifier_rows() -> dict[str, Row]:
    """Returns the rows of Caltech-101: two networks of ImageNet, alone and together."""
    both = _both(VGG16, XCEPTION)
    return _rows(VGG16=VGG16, Xception=XCEPTION, VGG16_and_Xception=both)


def detector_rows() -> dict[str, Row]:
    """Returns the rows of CamVid's people: a pose network and one of ImageNet."""
    both = _both(POSE, XCEPTION)
    return _rows(pose=POSE, Xception=XCEPTION, pose_and_Xception=both)


TABLES = (
    Table(
        "caltech101_several",
        "imagenet",
        {
            "data_dir": CALTECH,
            "student": "MobileNet",
            "epochs": 8,
            "batch_size": 32,
            "balance": "dynamic",
            "teacher_dtype": "bfloat16",
        },
        classifier_rows,
        top1,
    ),
    Table(
        "people_several",
        "citypersons",
        {
            **people.SETTINGS,
            "steps": 683,  # half of the schedule of Table 4
            "teacher_dtype": "bfloat16",
        },
        detector_rows,
        people.training_subset,
        better=-1,
    ),
)
