"""The folders of the package and the imports allowed between them."""

import ast
import graphlib
import importlib
import pathlib

import pytest

import documented_blocks
import keras_hybrid

_HERE = pathlib.Path(keras_hybrid.__file__).parent
_MODULES = dict(documented_blocks.modules())
# Each folder or module may import from those before it.
_FOLDERS = (
    *("training", "hybrid", "metrics", "applications", "callbacks", "baselines"),
    *("models", "data", "", "export", "recipes"),
)


def _folder(module):
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
        assert _FOLDERS.index(_folder(other)) <= _FOLDERS.index(_folder(module)), other


def test_imports_are_not_circular():
    """Inside a folder, files import each other and not the names that it exports."""
    graph = {name: {*_imported(tree)} - {name} for name, tree in _MODULES.items()}
    assert [*graphlib.TopologicalSorter(graph).static_order()]


def test_the_root_is_small():
    entries = [path for path in _HERE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 10


@pytest.mark.parametrize("folder", sorted({path.parent for path in _HERE.rglob("*.py")}))
def test_each_folder_has_a_docstring(folder):
    first = ast.get_docstring(
        ast.parse((folder / "__init__.py").read_text())
    ).splitlines()[0]
    assert first.endswith(".")


@pytest.mark.parametrize("name", ["tests", "benchmarks", "docs", "keras_hybrid", "setup"])
def test_the_rest_of_a_checkout_is_not_part_of_the_package(name):
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"keras_hybrid.{name}")
