"""Where things are, and what may import what."""

import ast
import graphlib
import importlib
import pathlib

import pytest

import documented_blocks
import keras_hybrid

_HERE = pathlib.Path(keras_hybrid.__file__).parent
_MODULES = dict(documented_blocks.modules())
# Each may import from those before it.
_ROOMS = (
    *("training", "hybrid", "metrics", "applications", "callbacks", "baselines"),
    *("models", "data", "", "export", "recipes"),
)


def _room(module):
    return module.removeprefix("keras_hybrid").lstrip(".").split(".")[0]


def _imported(tree):
    """Modules of the package that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in _MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in _MODULES:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [one if one in _MODULES else node.module for one in inner]


@pytest.mark.parametrize("module", _MODULES)
def test_imports_point_downwards(module):
    for other in _imported(_MODULES[module]):
        assert _ROOMS.index(_room(other)) <= _ROOMS.index(_room(module)), other


def test_no_imports_in_circles():
    """What a folder exports is for the others: its own files import each other."""
    graph = {name: {*_imported(tree)} - {name} for name, tree in _MODULES.items()}
    assert [*graphlib.TopologicalSorter(graph).static_order()]


def test_the_root_is_small():
    entries = [path for path in _HERE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 10


@pytest.mark.parametrize("room", sorted({path.parent for path in _HERE.rglob("*.py")}))
def test_each_room_says_what_it_holds(room):
    first = ast.get_docstring(ast.parse((room / "__init__.py").read_text())).splitlines()[
        0
    ]
    assert first.endswith(".")


@pytest.mark.parametrize("name", ["tests", "benchmarks", "docs", "keras_hybrid", "setup"])
def test_nothing_else_of_a_checkout_can_be_imported(name):
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"keras_hybrid.{name}")
