"""Cases that users have: few labels, a student of ImageNet, a teacher of another task.

In each, all methods train for the same number of epochs or steps, the cheaper ones also
for as many as fit in the time of others. The learning rate of the student alone is tuned
first, then each baseline's weight at this rate.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.study import camvid, cifar10, people
from benchmarks.study.plan import (
    FEATURE_GRIDS,
    NONE,
    OURS,
    POSE,
    RANDOM_TEACHER,
    Row,
    Table,
    baselines,
    best_value,
    weight_rows,
)
from benchmarks.study.several import CALTECH, VGG16, XCEPTION

CALTECH_VALIDATION = "caltech101_validation.npz"
"""25 training images of each class, and the other five as test images."""
XCEPTION_START = "xception_caltech101.keras"
PRETRAINED = "mobilenetv2_caltech101_{}.keras"
SCRATCH = "mobilenet_half_caltech101_{}.keras"
SEGMENTER = "mobilenetv2_camvid_{}.keras"
"""Networks with initial weights, for the seed in their names."""
BACKBONE = "mobilenetv2_rgb.keras"
"""The student of ImageNet with its preprocessing, as the backbone of detectors."""
_CALTECH_SETTINGS = {"data_dir": CALTECH, "batch_size": 32, "balance": "dynamic"}
_TUNED_XCEPTION = {"teacher": "runs/caltech101_teacher/Xception_0/student.keras"}
_TUNED_MOBILENETV2 = {"teacher": "runs/caltech101_pretrained/none_0/student.keras"}
_AT_RANDOM = {"teacher": RANDOM_TEACHER}
_KD = {"kd": (0.3, 1.0, 3.0, 10.0)}
_FEATURES = {"fitnet": (0.01, 0.1, 1.0), "at": (10.0, 100.0, 1000.0)}
_AT = {"at": FEATURE_GRIDS["at"]}


@dataclasses.dataclass(frozen=True)
class Case:
    """A student and what there is to teach it.

    Attributes:
        name: Name of its table.
        recipe: Name of the module in keras_hybrid.recipes.
        settings: Fields of the recipe's `Config` that all rows share.
        budget: The field that is the length of training, `"epochs"` or `"steps"`.
        validation: Fields that differ where the rate and weights are tuned.
        rates: Learning rates to try.
        teacher: Fields of the recipe's `Config` for the teacher.
        others: Such fields for other teachers, by name.
        grids: Weights to try, by baseline, for those that compare feature maps.
        tuned_teacher: Fields for KD's teacher, a classifier of these very classes.
        hybrid_epochs: Epochs before the student trains alone, in the row that does so.
        result: Function from the content of results.json to the figure, in percent.
        lengths: How many times as long a method also trains, by the name of its row.
        better: 1 if higher is better, -1 if lower is.
    """

    name: str
    recipe: str
    settings: Mapping[str, Any]
    budget: str
    validation: Mapping[str, Any]
    rates: Sequence[float]
    teacher: Mapping[str, Any]
    others: Mapping[str, Mapping[str, Any]]
    grids: Mapping[str, Sequence[float]]
    hybrid_epochs: int
    result: Callable[[dict[str, Any]], float]
    tuned_teacher: Mapping[str, Any] | None = None
    lengths: Mapping[str, Sequence[float]] = dataclasses.field(
        default_factory=lambda: {NONE: (2, 4)}
    )
    better: int = 1

    @property
    def tables(self) -> tuple[Table, Table, Table]:
        """The tables of the rates, of the weights and of all methods, as they are run."""
        tuning = self.validation
        rates = self._table("_rates", self._rate_rows, **tuning)
        of_weights = functools.partial(self._weight_rows, rates)
        weights = self._table("_weights", of_weights, **tuning)
        of_all = functools.partial(self._rows, rates, weights)
        return rates, weights, self._table("", of_all)

    def _table(self, suffix, rows, **changes):
        settings = {"teacher_dtype": "bfloat16", **self.settings, **changes}
        name = self.name + suffix
        return Table(name, self.recipe, settings, rows, self.result, self.better)

    def _rate_rows(self):
        return {
            f"{NONE} {rate:g}": Row({"method": "none", "learning_rate": rate}, seeds=(0,))
            for rate in self.rates
        }

    def _weight_rows(self, rates):
        rate = best_value(rates, NONE)
        if rate is None:
            return {}
        common = {"learning_rate": rate}
        found = weight_rows(self.grids, {"": {**self.teacher, **common}})
        if self.tuned_teacher:
            found |= weight_rows(_KD, {"": {**self.tuned_teacher, **common}})
        return found

    def _rows(self, rates, weights):
        best_rate = best_value(rates, NONE)
        if best_rate is None:
            return {}
        rate = {"learning_rate": best_rate}

        def ours(teacher=self.teacher, **settings):
            return Row({"method": "hybrid", **teacher, **rate, **settings})

        without_paths = {NONE: Row({"method": "none", **rate})}
        without_paths |= baselines(weights, self.grids, {**self.teacher, **rate})
        if self.tuned_teacher:
            without_paths |= baselines(weights, _KD, {**self.tuned_teacher, **rate})
        found = {}
        for name, row in without_paths.items():
            found[name] = row
            for n in self.lengths.get(name, ()):
                length = {self.budget: round(n * self.settings[self.budget])}
                found[f"{name}, {n:g} times as long"] = Row({**row.settings, **length})
        found |= {
            OURS: ours(),
            "ours, one path": ours(paths_per_step=1),
            "ours, then alone": ours(hybrid_epochs=self.hybrid_epochs),
            "ours, adapters' rate times 10": dataclasses.replace(
                ours(), adapter_rate=10.0
            ),
            "ours, teacher in float32": ours(teacher_dtype=""),
        }
        found |= {f"ours, {name}": ours(of_it) for name, of_it in self.others.items()}
        at, kd = (best_value(weights, name) for name in ("at", "kd"))
        if at is not None:
            with_at = {"plus": "at", "plus_weight": at}
            found["ours + at"] = ours(**with_at)
            found["ours + at, one path"] = ours(**with_at, paths_per_step=1)
        if kd is not None:
            with_kd = {"plus": "kd", "plus_weight": kd}
            found["ours + kd"] = ours(self.tuned_teacher, **with_kd)
            found["ours + kd, one path"] = ours(
                self.tuned_teacher, **with_kd, paths_per_step=1
            )
        return found


def _teacher_rows():
    """The run that trains the teacher of KD on the same labels."""
    return {"Xception": Row({"method": "none", "student": XCEPTION_START}, seeds=(0,))}


_PRETRAINED = Case(
    "caltech101_pretrained",
    "imagenet",
    {**_CALTECH_SETTINGS, "student": PRETRAINED, "epochs": 10},
    "epochs",
    {"data_dir": CALTECH_VALIDATION},
    (0.003, 0.01, 0.03, 0.1),
    XCEPTION,
    {"VGG16": VGG16, "VGG16 at random": _AT_RANDOM},
    _FEATURES,
    hybrid_epochs=5,
    result=cifar10.top1,
    tuned_teacher=_TUNED_XCEPTION,
)
CASES = (
    _PRETRAINED,
    dataclasses.replace(
        _PRETRAINED,
        name="caltech101_scratch",
        settings={**_CALTECH_SETTINGS, "student": SCRATCH, "epochs": 30},
        validation={"data_dir": CALTECH_VALIDATION, "epochs": 10},
        rates=(0.03, 0.1, 0.3),
        hybrid_epochs=15,
    ),
    Case(
        "caltech101_tuned",
        "imagenet",
        {**_CALTECH_SETTINGS, "student": SCRATCH, "epochs": 45},
        "epochs",
        {"data_dir": CALTECH_VALIDATION, "epochs": 15},
        (0.1, 0.3, 1.0),
        _TUNED_MOBILENETV2,
        {"MobileNetV2 of ImageNet": {"teacher": BACKBONE}},
        _FEATURES,
        hybrid_epochs=22,
        result=cifar10.top1,
        tuned_teacher=_TUNED_MOBILENETV2,
        lengths={NONE: (2, 5)},
    ),
    Case(
        "people_pretrained",
        "citypersons",
        {**people.SETTINGS, "student_backbone": BACKBONE},
        "steps",
        {"data_dir": "camvid_validation"},
        (5e-4, 1e-3, 2e-3),
        POSE,
        {"Xception": XCEPTION, "VGG16 at random": _AT_RANDOM},
        _AT,
        hybrid_epochs=7,
        result=people.training_subset,
        better=-1,
    ),
    Case(
        "cifar10_long",
        "imagenet",
        {**cifar10.SETTINGS, "epochs": 45},
        "epochs",
        {"data_dir": "cifar10_validation.npz", "epochs": 9},
        (0.03, 0.1, 0.3),
        {"teacher": cifar10.TUNED_TEACHER},
        {"VGG16 of ImageNet": VGG16, "VGG16 at random": _AT_RANDOM},
        _FEATURES,
        hybrid_epochs=22,
        result=cifar10.top1,
        tuned_teacher={"teacher": cifar10.TUNED_TEACHER},
        lengths={NONE: (2, 4, 5), "at": (1.7,)},
    ),
    Case(
        "camvid_pretrained",
        "cityscapes",
        {**camvid.SETTINGS, "student": SEGMENTER},
        "steps",
        {"data_dir": "camvid_validation", "steps": 455},
        (3e-3, 0.01, 0.03),
        XCEPTION,
        {"pose": POSE, "VGG16 at random": _AT_RANDOM},
        _AT,
        hybrid_epochs=5,
        result=camvid.miou,
    ),
)
TABLES = (
    Table(
        "caltech101_teacher",
        "imagenet",
        {**_CALTECH_SETTINGS, "epochs": 10, "learning_rate": 0.03},
        _teacher_rows,
        cifar10.top1,
    ),
    *(table for case in CASES for table in case.tables),
)
