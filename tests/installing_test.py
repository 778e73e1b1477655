"""The three ways to install, each used from inside of a checkout and from outside."""

import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_SOURCES = (
    *("keras_hybrid", "recipes", "export"),
    *("setup.py", "pyproject.toml", "README.md", "LICENSE"),
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what a package is made of, since that leaves files in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in _SOURCES:
        source = _ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    return folder


@pytest.fixture
def python(tmp_path):
    """The interpreter of an environment with the dependencies, but not the package."""
    venv.create(tmp_path / "environment")
    paths = {"base": str(tmp_path / "environment")}
    packages = pathlib.Path(sysconfig.get_path("purelib", vars=paths))
    # Other paths are searched for modules alone: an editable install there has no effect.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return tmp_path / "environment" / "bin" / "python"


def pip(python, *arguments):
    command = [sys.executable, "-m", "pip", "--python", python, *arguments]
    options = "--no-deps", "--no-build-isolation", "--no-index", "--quiet"
    subprocess.run([*command, *options], check=True)


def wheel(python, checkout):
    pip(python, "wheel", checkout, "--wheel-dir", checkout / "wheels")
    (built,) = (checkout / "wheels").glob("keras_hybrid-*.whl")
    pip(python, "install", built)


WAYS = {
    "wheel": wheel,
    "pip install .": lambda python, checkout: pip(python, "install", checkout),
    "pip install -e .": lambda python, checkout: pip(python, "install", "-e", checkout),
}


@pytest.mark.skipif(not (_ROOT / "setup.py").exists(), reason="needs a checkout")
@pytest.mark.parametrize("way", WAYS)
def test_a_recipe_runs_from_anywhere(way, python, checkout, tmp_path):
    WAYS[way](python, checkout)
    for folder in (checkout, tmp_path):
        run = subprocess.run(
            [python, "-m", "keras_hybrid.recipes.imagenet", "--help"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert "--data_dir" in run.stdout, run.stderr
