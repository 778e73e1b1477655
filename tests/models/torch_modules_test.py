"""PyTorch modules as teachers."""

import os
import pathlib
import subprocess
import sys

import pytest

from keras_hybrid.models import torch_modules
from runs import PATH


def test_modules_are_refused_on_other_backends():
    with pytest.raises(ValueError, match="set KERAS_BACKEND=torch before"):
        torch_modules.from_stages([None])


def test_a_step_with_modules_equals_one_with_keras_layers():
    pytest.importorskip("torch")
    script = pathlib.Path(__file__).parents[1] / "torch_process.py"
    paths = os.pathsep.join([str(script.parent), *PATH.values()])
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": paths}
    subprocess.run([sys.executable, script], env=environment, check=True)
