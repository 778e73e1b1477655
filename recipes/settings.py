"""What the flags of all recipes have in common."""

import math
from typing import Literal

import keras_hybrid

Method = Literal["hybrid", "none", "kd", "fitnet", "at", "ft", "ab", "overhaul"]
"""Hybrid forward, the student alone, or a method of `keras_hybrid.baselines`."""


def refuse(flag, rule, value):
    """Raises the ValueError for a flag that breaks a rule."""
    raise ValueError(f"--{flag} must be {rule}. Received: --{flag}={value}")


def check_numbers(config, names, rule="above 0"):
    """Refuses flags that are not finite, or not above 0, or not "at least 0"."""
    for name in names:
        value = getattr(config, name)
        if not (value >= 0 if rule == "at least 0" else value > 0):
            refuse(name, rule, value)
        if value == math.inf:
            refuse(name, "finite", value)


def balance_of(config):
    """What `HybridTransfer` takes for --balance: "dynamic" or a number."""
    if config.balance == "dynamic":
        return config.balance
    try:
        keras_hybrid.FixedBalance(float(config.balance))
    except ValueError:
        refuse("balance", '"dynamic" or a number of at least 0', config.balance)
    return float(config.balance)


def switch_points_of(config):
    """What `HybridTransfer` takes for --switch_points: strides, or None for "all"."""
    if config.switch_points == "all":
        return None
    strides = config.switch_points.split(",")
    if all(stride.strip().isdecimal() for stride in strides):
        strides = [int(stride) for stride in strides]
        if sorted(set(strides)) == strides:
            return tuple(strides)
    rule = 'rising strides such as 2,8,16, or "all"'
    return refuse("switch_points", rule, config.switch_points)


def check_method_weight(config):
    """Refuses a --method_weight that no method takes."""
    weight = config.method_weight
    if weight is None:
        return
    if config.method in ("hybrid", "none"):
        refuse("method_weight", f"left out with --method={config.method}", weight)
    if not 0 <= weight < math.inf:
        refuse("method_weight", "a number of at least 0", weight)


def exports_of(config):
    """The formats in --export."""
    formats = [part for part in config.export.split(",") if part]
    if not set(formats) <= {"saved_model", "tflite"}:
        refuse("export", "saved_model, tflite or both", config.export)
    return formats
