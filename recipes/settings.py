"""Types and checks of the flags that the recipes have in common."""

import math
from collections.abc import Iterable
from typing import Any, Literal, NoReturn

import keras_hybrid

Config = Any
"""The `Config` of a recipe, a dataclass of its flags."""

Method = Literal["hybrid", "none", "kd", "fitnet", "at", "ft", "ab", "overhaul"]
"""Hybrid forward, the student alone, or a method of `keras_hybrid.baselines`."""


def refuse(flag: str, rule: str, value: object) -> NoReturn:
    """Raises the ValueError for a flag that breaks a rule."""
    raise ValueError(f"--{flag} must be {rule}. Received: --{flag}={value}")


def check_numbers(config: Config, names: Iterable[str], rule: str = "above 0") -> None:
    """Refuses flags that are not finite or break the rule, "above 0" or "at least 0"."""
    for name in names:
        value = getattr(config, name)
        if not (value >= 0 if rule == "at least 0" else value > 0):
            refuse(name, rule, value)
        if value == math.inf:
            refuse(name, "finite", value)


def balance_of(config: Config) -> str | float:
    """Returns --balance as `HybridTransfer` takes it: "dynamic" or a number."""
    if config.balance == "dynamic":
        return config.balance
    try:
        keras_hybrid.FixedBalance(float(config.balance))
    except ValueError:
        refuse("balance", '"dynamic" or a number of at least 0', config.balance)
    return float(config.balance)


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
    """Refuses a --method_weight that --method does not take."""
    weight = config.method_weight
    if weight is None:
        return
    if config.method in ("hybrid", "none"):
        refuse("method_weight", f"left out with --method={config.method}", weight)
    if not 0 <= weight < math.inf:
        refuse("method_weight", "a number of at least 0", weight)


def exports_of(config: Config) -> list[str]:
    """Returns the formats in --export."""
    formats = [part for part in config.export.split(",") if part]
    if not set(formats) <= {"saved_model", "tflite"}:
        refuse("export", "saved_model, tflite or both", config.export)
    return formats
