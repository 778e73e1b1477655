"""What `import keras_hybrid` does before it imports TensorFlow."""

import os
import subprocess
import sys

import pytest

from runs import PATH

_CODE = """
import os, sys

class Watch:
    def find_spec(self, name, path, target=None):
        if name == "tensorflow":
            print("TensorFlow finds", os.environ.get("TF_ENABLE_ONEDNN_OPTS"))

sys.meta_path.insert(0, Watch())
import keras_hybrid
"""


@pytest.mark.parametrize(("given", "found"), [(None, "1"), ("0", "0")])
def test_onednn_is_on_unless_the_user_said_otherwise(monkeypatch, given, found):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if given:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given)
    output = subprocess.check_output(
        [sys.executable, "-c", _CODE], env={**os.environ, **PATH}, text=True
    )
    assert f"TensorFlow finds {found}" in output
