"""What README, docs/ and docstrings tell a reader to run is run, as it is written there.

Commands run in a shell, Python in a process of its own, both outside of the checkout and
with what a reader has: `documented_materials`, `documented_process.GIVEN`. The folders in
/data are tiny ones; behind a command's own flags stand smaller ones, of which the last
counts; `stand_ins` keeps downloads, drawings and training short. A new block is run
likewise, and fails where it needs more than that.
"""

import ast
import dataclasses
import importlib.util
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib

import pytest

import documented_blocks
import documented_materials
import keras_hybrid
from keras_hybrid.export import __main__ as export_main
from keras_hybrid.recipes import citypersons, cityscapes, imagenet
from runs import PATH

_TESTS = pathlib.Path(__file__).parent
_ROOT = _TESTS.parent
_BLOCKS = documented_blocks.blocks()
# Installing takes a network and minutes, and the suite cannot run itself: the gate does
# both by README's own test block, and builds the pages, whose notebooks it runs with
# them. `test_installing` compares the blocks with the packaging and the gate.
_INSTALL = "python3 -m venv .venv && . .venv/bin/activate && pip install .\n"
_TEST = 'pip install -e ".[test]" && python -m pytest\n'
_PAGES = 'pip install ".[docs]" && sphinx-build -W -j 16 docs build/docs\n'
_SMALLER = {
    "-m keras_hybrid.recipes.imagenet": "--epochs=1 --batch_size=2",
    "-m keras_hybrid.recipes.cityscapes": "--steps=1 --batch_size=2 --crop_height=32 "
    "--crop_width=64",
    "-m keras_hybrid.recipes.citypersons": "--steps=1 --batch_size=2 --crop_height=64 "
    "--crop_width=64 --learning_rate=0.02",
    "--balance=0.1,0.3,1,3,dynamic": "--balance=1,dynamic",
    "-m benchmarks.study.cost": "--rounds=1",
}
_CONFIGS = {
    c.__module__: c for c in (imagenet.Config, cityscapes.Config, citypersons.Config)
}
_FLAG = re.compile(r"(?<=--)\w+")
_FOLDERS = "benchmarks", "docs", "examples", "export", "keras_hybrid", "recipes", "tests"
_MACHINES = "one:2222", "two:2222"


def _commands():
    """(block, its commands), but for commands that an earlier block had."""
    seen = set()
    for block in _BLOCKS:
        if block.language == "sh" and block.text not in (_INSTALL, _TEST, _PAGES):
            commands = [
                c for c in block.commands if documented_blocks.words(c) not in seen
            ]
            seen |= set(map(documented_blocks.words, commands))
            if commands:
                yield pytest.param(commands, id=str(block))


def _python_pages():
    pages = [b.page for b in _BLOCKS if b.language == "python" and b.page.endswith(".md")]
    return [*dict.fromkeys(pages), "docstrings"]


def _entry_points():
    """Modules that `python -m` runs."""
    for module, tree in documented_blocks.modules():
        if any(
            isinstance(n, ast.If) and "__main__" in ast.unparse(n.test) for n in tree.body
        ):
            yield module.removesuffix(".__main__")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    documented_materials.prepare(folder)
    return folder


@pytest.fixture
def run(reader, tmp_path):
    """`run(*commands)` runs them at once, as a reader would; returns what they print."""
    here = str(_TESTS / "stand_ins"), *PATH.values(), os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, here)),
        "XDG_CACHE_HOME": str(reader / "cache"),
    }

    def start(command, printed, log):
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", command],
            stdout=printed,
            stderr=log,
            cwd=tmp_path,
            env=environment,
        )

    def run(*commands):
        # Not pipes, which would block one of two processes that wait for each other.
        with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as log:
            processes = [start(command, printed, log) for command in commands]
            codes = [process.wait() for process in processes]
            printed.seek(0)
            log.seek(0)
            output = printed.read()
            assert not any(codes), output[-3000:] + log.read()[-3000:]
        return output

    shutil.copytree(reader / "work", tmp_path, dirs_exist_ok=True)
    # Of the checkout, which no package has; a copy, since the study appends to it.
    shutil.copytree(_ROOT / "benchmarks", tmp_path / "benchmarks")
    yield run
    shutil.rmtree(tmp_path)  # up to a gigabyte of networks


@pytest.mark.parametrize("commands", [*_commands()])
def test_commands(commands, run, reader, tmp_path):
    for command in commands:
        before = _written(tmp_path, reader / "data")
        if "models.state_dict" in command and not importlib.util.find_spec("torch"):
            assert "PyTorch" in run(f"! {command} 2>&1")  # it says what is missing
            continue
        smaller = [flags for part, flags in _SMALLER.items() if part in command]
        text = " ".join([command.replace("/data/", f"{reader}/data/"), *smaller])
        printed = run(*_on_each_machine(text))
        assert printed or _written(tmp_path, reader / "data") != before


def _written(*folders):
    """Names and times of all files."""
    paths = [path for folder in folders for path in folder.rglob("*")]
    return {path: path.stat().st_mtime_ns for path in paths if path.is_file()}


def _on_each_machine(command):
    """The command with a port of this machine for each one that TF_CONFIG names."""
    if "TF_CONFIG" not in command:
        return [command]
    sockets = [socket.create_server(("localhost", 0)) for _ in _MACHINES]
    for name, one in zip(_MACHINES, sockets, strict=True):
        command = command.replace(name, f"localhost:{one.getsockname()[1]}")
        one.close()
    return [command.replace('"index": 0', f'"index": {i}') for i in range(len(_MACHINES))]


# What a page needs, which the gate does not install, and what a reader sets for it.
_NEEDS = {"docs/guides/zoos.md": "zeromodels", "docs/guides/pytorch.md": "torch"}
_SET = {"docs/guides/pytorch.md": "KERAS_BACKEND=torch "}


@pytest.mark.parametrize("page", _python_pages())
def test_python(page, run):
    if page in _NEEDS:
        pytest.importorskip(_NEEDS[page])
    run(f"{_SET.get(page, '')}python {_TESTS / 'documented_process.py'} {page}")


@pytest.mark.parametrize("module", [*_entry_points()])
def test_help(module, run):
    text = run(f"python -m {module} --help")
    documented = " ".join(b.text for b in _BLOCKS if f"-m {module} " in b.text)
    config = _CONFIGS.get(module)
    flags = [field.name for field in dataclasses.fields(config)] if config else []
    for flag in {*flags, *_FLAG.findall(documented)}:
        assert f"--{flag} " in text


def test_nothing_is_left_out():
    """Blocks of other languages are the table of `test_table`, the paper's entry and
    trees of files."""
    others = [b for b in _BLOCKS if b.language not in ("sh", "python")]
    assert [b.language for b in others if b.page == "README.md"] == ["", "bibtex"]
    assert {b.language for b in others if b.page != "README.md"} <= {"text"}
    kinds = {b.text for b in _BLOCKS if b.language == "sh"}
    assert {_INSTALL, _TEST, _PAGES} <= kinds


def test_installing():
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    assert "pytest" in project["optional-dependencies"]["test"]
    assert "sphinx" in project["optional-dependencies"]["docs"]
    install, build = _PAGES.strip().split(" && ")
    gate = (_ROOT / ".ci/run").read_text().splitlines()
    assert gate.index(install) < gate.index(build)
    assert re.search(rf"^<!-- test -->\n```sh\n{re.escape(_TEST)}```$", _readme(), re.M)


def test_table():
    """Of the two networks that README names before it, at the points that it names."""
    (table,) = [b.text for b in _BLOCKS if b.language == ""]
    model = keras_hybrid.HybridTransfer(
        keras_hybrid.applications.load("ResNet50", weights=None),
        keras_hybrid.applications.load("MobileNet", weights=None, classes=1000),
        switch_points=(2, 8, 16),
    )
    shown, printed = table.splitlines(), keras_hybrid.describe(model).splitlines()
    for path in ("student_first path", "teacher_first path"):
        first = next(i for i, line in enumerate(shown) if line.startswith(path))
        last = shown.index("" if path.startswith("student") else "  ...", first)
        start = printed.index(shown[first])
        assert shown[first:last] == printed[start : start + last - first]


def _readme():
    return (_ROOT / "README.md").read_text()


def test_names_in_the_text():
    """Of the package, of its files and of flags, in README and docs/."""
    text = "\n".join(documented_blocks.pages().values())
    for name in set(re.findall(r"\bkeras_hybrid((?:\.[A-Za-z]\w*)+)", text)):
        _, *names = name.split(".")
        value = keras_hybrid
        for part in names:
            if not hasattr(value, part):
                importlib.import_module(f"{value.__name__}.{part}")
            value = getattr(value, part)
    flags = {f.name for c in _CONFIGS.values() for f in dataclasses.fields(c)}
    flags |= {*_FLAG.findall(export_main._parser().format_help())}
    for code in re.findall(r"`(--\w+[^`\n]*)`", _readme()):
        assert {*_FLAG.findall(code)} <= flags | {"help"}
    for link in re.findall(r"\]\((?!http)([^)#]+)", _readme()):
        assert (_ROOT / link).exists()
    for path in set(re.findall(rf"`((?:{'|'.join(_FOLDERS)})/[\w./]+)`", text)):
        assert (_ROOT / path).exists(), path
