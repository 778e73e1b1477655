"""What `import keras_hybrid` does about TensorFlow, and what reaches the terminal."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest
from tensorflow.python.util import _pywrap_util_port

import runs
from keras_hybrid.training import startup

_ROOT = pathlib.Path(__file__).parents[1]
_SWITCH = "TF_ENABLE_ONEDNN_OPTS"
_CODE = """
import gc
import keras_hybrid
from tensorflow.python.framework import test_util
print(test_util.IsMklEnabled(), gc.isenabled(), gc.get_freeze_count() > 100_000)
"""


@pytest.mark.parametrize(("given", "found"), [(None, "True"), ("0", "False")])
def test_onednn_is_on_unless_the_user_said_otherwise(monkeypatch, given, found):
    """And the garbage collector is, which leaves alone what was imported."""
    monkeypatch.delenv(_SWITCH, raising=False)
    if given:
        monkeypatch.setenv(_SWITCH, given)
    run = subprocess.run(
        [sys.executable, "-c", _CODE],
        env={**os.environ, **runs.PATH},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (run.stdout, run.stderr) == (f"{found} True True\n", "")


@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("named_by", ["environment", "configuration file"])
def test_other_backends_leave_the_switch_alone(monkeypatch, backend, named_by):
    monkeypatch.delenv(_SWITCH, raising=False)
    if named_by == "environment":
        monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setattr("keras.backend.backend", lambda: backend)
    startup.import_keras()
    assert _SWITCH not in os.environ


_BENCHMARKS = _ROOT / "benchmarks"
_KERAS = "keras", "tensorflow", "keras_hybrid"
_ON_JAX = "speed/gpu_step.py", "study/gpu.py"


@pytest.mark.skipif(not _BENCHMARKS.exists(), reason="needs a checkout")
def test_benchmarks_import_the_package_first():
    scripts = [
        path
        for path in sorted(_BENCHMARKS.rglob("*.py"))
        if "__main__" in path.read_text()
        and path.relative_to(_BENCHMARKS).as_posix() not in _ON_JAX
    ]
    assert scripts
    for script in scripts:
        names = [name for name in imported(script) if name in _KERAS]
        assert names[:1] in ([], ["keras_hybrid"]), script


def imported(script):
    """Names of modules in the order in which a script imports them."""
    for statement in ast.parse(script.read_text()).body:
        names = []
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            names = [f"{statement.module}.{alias.name}" for alias in statement.names]
        for name in names:
            if name.startswith("benchmarks."):
                module = _ROOT / name.replace(".", "/")
                paths = module.with_suffix(".py"), module.parent.with_suffix(".py")
                yield from imported(next(path for path in paths if path.exists()))
            else:
                yield name.split(".")[0]


@pytest.mark.parametrize(
    ("is_on", "given", "machine", "warnings"),
    [
        (False, None, "x86_64", 1),
        (False, None, "AMD64", 1),
        (False, None, "aarch64", 0),  # where there is no such switch
        (True, None, "x86_64", 0),
        (False, "0", "x86_64", 0),
    ],
)
def test_it_says_once_that_onednn_stays_off(
    monkeypatch, caplog, is_on, given, machine, warnings
):
    monkeypatch.delenv(_SWITCH, raising=False)
    if given:
        monkeypatch.setenv(_SWITCH, given)
    monkeypatch.setattr(_pywrap_util_port, "IsMklEnabled", lambda: is_on)
    monkeypatch.setattr("platform.machine", lambda: machine)
    startup.import_keras()
    startup.import_keras()
    messages = [message for message in caplog.messages if f"{_SWITCH}=1" in message]
    assert len(messages) == warnings


def test_a_recipe_writes_no_banner(tmp_path):
    process = runs.shell("--data_dir=nowhere", cwd=tmp_path)
    _, written = process.communicate()
    assert written.startswith("FileNotFoundError: ")
    assert written.count("\n") == 1


def test_other_lines_reach_the_terminal(capfd):
    def fail():
        os.write(2, b"I0000 port.cc:153] oneDNN custom operations are on. You may\n")
        os.write(2, b"F0000 no AVX on this machine\n")
        raise ImportError

    with pytest.raises(ImportError), startup.without_banners():
        fail()
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "F0000 no AVX on this machine\nlater\n"


def test_nothing_is_held_back_on_a_full_disk(monkeypatch, capfd):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with startup.without_banners():
        os.write(2, b"at once\n")
        assert capfd.readouterr().err == "at once\n"
