"""The flags that all recipes have, and checks of flags."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, NoReturn

import keras

import keras_hybrid
from keras_hybrid.hybrid import precision
from keras_hybrid.hybrid.preprocessing import SCHEMES

METHODS = "hybrid", "none", *keras_hybrid.baselines.METHODS
"""Hybrid forward, the student alone, and the methods of `keras_hybrid.baselines`."""
_WITHOUT_WEIGHT = {"hybrid", "none"}
_OF_HYBRID = "paths_per_step", "plus", "plus_weight", "hybrid_epochs"
EXPORTS = "saved_model", "tflite"
"""Formats that a student is exported to."""
_NETWORKS = "teacher", "student", "student_backbone", "student_weights"
REDO = "evaluate", "export"
"""Parts of a finished run that can be done again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of every recipe; a recipe adds its own and the defaults of its paper."""

    data_dir: str = ""
    """Data set on disk, in one of the layouts that the recipe reads; synthetic data if
    not given."""
    workdir: str = ""
    """Directory for the config, metrics, pictures, student and exports."""
    teacher: str = ""
    """Keras Applications network with ImageNet weights, a .keras file, or a .pth, .npz or
    .safetensors file of torchvision's ResNet or MobileNetV2 or of OpenPifPaf's ResNet;
    several with commas, which teach together by hybrid forward."""
    teacher_preprocessing: str = "inside"
    """Preprocessing that a .keras file of a teacher needs: tf, torch, clip, caffe or bgr,
    or inside if it takes raw RGB; one for each of several teachers, with commas."""
    teacher_epsilon: float = 0.0
    """Epsilon of batch normalization for a PyTorch file that does not record it; 0 for
    that of the file."""
    teacher_dtype: str = ""
    """bfloat16, or float16 on GPUs, for what the teacher computes in; as the student if
    not given."""
    student_weights: str = "imagenet"
    """Initial weights of the student's network of Keras Applications: imagenet, random or
    a file; always random on synthetic data."""
    method: str = "hybrid"
    """Hybrid forward, none (the student alone), or kd, fitnet, at, ft, ab or overhaul;
    several, with commas, are run one after the other."""
    method_weight: float | None = None
    """Weight of a baseline's loss; that of the baseline's paper, or 1, if not given."""
    balance: str = "dynamic"
    """"dynamic" or a fixed alpha; several, with commas, are run one after the other."""
    paths_per_step: int = 2
    """2 for both hybrid paths of a teacher in each step, or 1 for one of them in turn,
    which takes about 0.6 of the time."""
    plus: str = ""
    """A baseline whose loss hybrid forward adds: kd, fitnet, at, ft, ab or overhaul."""
    plus_weight: float | None = None
    """Weight of that loss; that of the baseline's paper, or 1, if not given."""
    hybrid_epochs: int | None = None
    """Number of first epochs with hybrid paths, after which the student trains alone; all
    epochs if not given. An epoch is one pass over the images."""
    batch_size: int = 8
    """Images per training step, over all GPUs together."""
    seed: int = 0
    """Random seed for initial weights, data order and augmentation."""
    strategy: Literal["none", "mirrored", "multi_worker"] = "none"
    """mirrored for all GPUs of this machine; multi_worker for those of all machines in
    TF_CONFIG, which must share a disk."""
    mixed_precision: bool = False
    """Whether to compute in float16, with weights and losses in float32."""
    export: str = ""
    """Formats to export the student to: saved_model, tflite, or both with a comma; can be
    added to a finished run."""
    redo: str = ""
    """Parts of a finished run to do again, from its student.keras: evaluate (and draw the
    pictures), export, or both with a comma."""

    defaults: ClassVar[dict[str, tuple[Any, Any]]] = {}
    """Default of a flag that is None if not given: with --data_dir, and without it."""
    evaluation_flags: ClassVar[tuple[str, ...]] = ()
    """Flags that only the evaluation depends on; it is done again when they change."""
    export_flags: ClassVar[tuple[str, ...]] = ("export",)
    """Flags that only the exports depend on."""

    def __post_init__(self) -> None:
        for name, (with_data, without_data) in self.defaults.items():
            if getattr(self, name) is None:
                value = with_data if self.data_dir else without_data
                object.__setattr__(self, name, value)  # the dataclass is frozen
        for name in _NETWORKS:
            # A shell leaves the ~ of --flag=~/file to the program.
            names = str(getattr(self, name, "")).split(",")
            if any(one.startswith("~") for one in names):
                names = [os.path.expanduser(one) for one in names]
                object.__setattr__(self, name, ",".join(names))
        check_numbers(self, ("batch_size",))
        check_numbers(self, ("teacher_epsilon",), "at least 0")
        if not 0 <= self.seed < 2**32:
            refuse("seed", f"from 0 to {2**32 - 1}", self.seed)
        teachers_of(self)
        if (self.teacher_dtype or None) not in precision.DTYPES:
            refuse("teacher_dtype", "bfloat16 or float16", self.teacher_dtype)
        if self.hybrid_epochs is not None:
            check_numbers(self, ("hybrid_epochs",), "at least 0")
        if self.paths_per_step not in (1, 2):
            refuse("paths_per_step", "1 or 2", self.paths_per_step)
        check_list(self, "method", METHODS)
        check_list(self, "balance")
        for one in runs_of(self).values():
            balance_of(one)
        check_method_weight(self)
        check_of_hybrid(self)
        check_plus(self)
        if self.export:
            check_list(self, "export", EXPORTS)
        if self.redo:
            check_list(self, "redo", REDO)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropConfig(Config):
    """Settings of a recipe that trains on crops and evaluates whole images."""

    multiple: ClassVar[int] = 32
    """Evaluation pads images to multiples of it, in pixels; all strides divide it."""

    steps: int | None = None
    """Number of training steps."""
    learning_rate: float | None = None
    """Initial learning rate, which decays to 0 as (1 - step / steps) ** 0.9."""
    crop_height: int | None = None
    """Height in pixels of the training crops and of the exported student's images."""
    crop_width: int | None = None
    """Width in pixels of both."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, ("steps", "learning_rate"))
        for name in ("crop_height", "crop_width"):
            value = getattr(self, name)
            if value <= 0 or value % self.multiple:
                refuse(name, f"a multiple of {self.multiple}", value)

    @property
    def crop_size(self) -> tuple[int, int]:
        """(height, width) of the training crops in pixels."""
        return self.crop_height, self.crop_width


def refuse(flag: str, rule: str, value: object) -> NoReturn:
    """Raises the ValueError for a flag that breaks a rule."""
    raise ValueError(f"--{flag} must be {rule}. Received: --{flag}={value}")


def opened(config: Config, flag: str, open_dataset: Callable[[str], Any]) -> Any:
    """Returns the data set in the folder of a flag, which its errors name."""
    try:
        return open_dataset(getattr(config, flag))
    except (ValueError, OSError) as error:
        raise ValueError(f"--{flag}: {error}") from error


def check_numbers(config: Config, names: Iterable[str], rule: str = "above 0") -> None:
    """Refuses flags that are not finite or break the rule, "above 0" or "at least 0"."""
    for name in names:
        value = getattr(config, name)
        if not (value >= 0 if rule == "at least 0" else value > 0):
            refuse(name, rule, value)
        if value == math.inf:
            refuse(name, "finite", value)


def check_list(config: Config, name: str, known: tuple[str, ...] = ()) -> None:
    """Refuses a list with commas that has the same part twice, or one that is not known.

    Args:
        config: Config of a recipe.
        name: Name of the flag.
        known: What its parts can be; anything if empty.
    """
    value = getattr(config, name)
    parts = value.split(",")
    if known and not set(parts) <= set(known):
        several = "both" if len(known) == 2 else "several of them with commas"
        refuse(name, f"{', '.join(known)} or {several}", value)
    if len(set(parts)) < len(parts):
        refuse(name, "a list without repetitions", value)


def runs_of(config: Config) -> dict[str, Config]:
    """Returns the `Config` of each run that --method and --balance ask for, by its name.

    Each of several runs has a workdir inside the given one. Alpha belongs to hybrid
    forward alone, so that the other methods run once, whatever the balances.

    >>> config = Config(workdir="w", method="none,hybrid", balance="1,dynamic")
    >>> for name, run in runs_of(config).items():
    ...     print(name, "in", run.workdir)
    none in w/method_none
    hybrid 1 in w/method_hybrid_balance_1
    hybrid dynamic in w/method_hybrid_balance_dynamic
    """
    methods, balances = config.method.split(","), config.balance.split(",")
    of_hybrid = {name: getattr(config, name) for name in _OF_HYBRID}
    defaults = {name: getattr(type(config), name) for name in ("balance", *_OF_HYBRID)}
    pairs = [
        (method, balance)
        for method in methods
        for balance in (balances if method == "hybrid" else balances[:1])
    ]
    if len(pairs) == 1:
        return {config.method: config}
    runs = {}
    for method, balance in pairs:
        varied = {}
        if len(methods) > 1:
            varied["method"] = method
        if len(balances) > 1 and method == "hybrid":
            varied["balance"] = balance
        folder = "_".join(f"{name}_{value}" for name, value in varied.items())
        runs[" ".join(varied.values())] = dataclasses.replace(
            config,
            method=method,
            method_weight=None if method in _WITHOUT_WEIGHT else config.method_weight,
            **({"balance": balance, **of_hybrid} if method == "hybrid" else defaults),
            workdir=f"{config.workdir}/{folder}",
        )
    return runs


def balance_of(config: Config) -> str | float:
    """Returns --balance as `HybridTransfer` takes it: "dynamic" or a number."""
    if config.balance == "dynamic":
        return config.balance
    try:
        keras_hybrid.FixedBalance(float(config.balance))
    except ValueError:
        refuse("balance", '"dynamic" or a number of at least 0', config.balance)
    return float(config.balance)


def teachers_of(config: Config) -> list[tuple[str, str]]:
    """Returns the name and the preprocessing of each teacher."""
    names, schemes = config.teacher.split(","), config.teacher_preprocessing.split(",")
    if not set(schemes) <= set(SCHEMES):
        refuse("teacher_preprocessing", f"one of {', '.join(SCHEMES)}", ",".join(schemes))
    if len(schemes) not in (1, len(names)):
        rule = f"one, or one for each of {len(names)} teachers"
        refuse("teacher_preprocessing", rule, config.teacher_preprocessing)
    if len(names) > 1 and not set(config.method.split(",")) <= _WITHOUT_WEIGHT:
        rule = f"one network with --method={config.method}"
        refuse("teacher", rule, config.teacher)
    return list(zip(names, schemes * (len(names) // len(schemes)), strict=True))


def switch_points_of(config: Config) -> tuple[int, ...] | None:
    """Returns --switch_points as `HybridTransfer` takes them: strides, None for "all"."""
    if config.switch_points == "all":
        return None
    strides = config.switch_points.split(",")
    if all(stride.strip().isdecimal() for stride in strides):
        strides = [int(stride) for stride in strides]
        if sorted(set(strides)) == strides:
            return tuple(strides)
    rule = 'increasing strides such as 2,8,16, or "all"'
    return refuse("switch_points", rule, config.switch_points)


def check_method_weight(config: Config) -> None:
    """Refuses a --method_weight that no --method takes."""
    weight = config.method_weight
    if weight is None:
        return
    if set(config.method.split(",")) <= _WITHOUT_WEIGHT:
        refuse("method_weight", f"left out with --method={config.method}", weight)
    if not 0 <= weight < math.inf:
        refuse("method_weight", "a number of at least 0", weight)


def check_of_hybrid(config: Config) -> None:
    """Refuses flags of hybrid forward where no run takes them."""
    for name in _OF_HYBRID:
        value = getattr(config, name)
        unused = "hybrid" not in config.method.split(",")
        if unused and value != getattr(type(config), name):
            refuse(name, f"left out with --method={config.method}", value)


def check_plus(config: Config) -> None:
    """Refuses a --plus that cannot be added, and a weight without it."""
    if config.plus_weight is not None:
        if not config.plus:
            refuse("plus_weight", "left out without --plus", config.plus_weight)
        if not 0 <= config.plus_weight < math.inf:
            refuse("plus_weight", "a number of at least 0", config.plus_weight)
    if not config.plus:
        return
    known = keras_hybrid.baselines.METHODS
    if config.plus not in known:
        refuse("plus", f"one of {', '.join(known)}", config.plus)
    if "," in config.teacher:
        refuse("plus", f"left out with --teacher={config.teacher}", config.plus)


def distils(config: Config) -> bool:
    """Whether the teacher's outputs are compared with the student's, by KD."""
    return (config.plus if config.method == "hybrid" else config.method) == "kd"


def plus_of(config: Config) -> keras.Layer | None:
    """Returns the new loss that --plus names, as `HybridTransfer` takes it."""
    if not config.plus:
        return None
    given = {} if config.plus_weight is None else {"weight": config.plus_weight}
    loss = keras_hybrid.baselines.METHODS[config.plus]
    return loss(**given, dtype="float32", name="transfer_loss")


def exports_of(config: Config) -> list[str]:
    """Returns the formats in --export."""
    return config.export.split(",") if config.export else []
