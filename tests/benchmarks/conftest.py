"""The modules of benchmarks/, which is not installed."""

import importlib
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def module(monkeypatch):
    """`module("speed.step_time")`: a module of benchmarks/, imported anew."""
    monkeypatch.syspath_prepend(ROOT)
    yield lambda name: importlib.import_module(f"benchmarks.{name}")
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]
