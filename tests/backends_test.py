"""The same step on JAX. On PyTorch: `KERAS_BACKEND=torch python backend_process.py`."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import backend_process
import tiny
import token_networks
from detectors import people, small
from keras_hybrid import HybridTransfer
from keras_hybrid.baselines import AttentionTransfer, FeatureTransfer
from runs import PATH


def with_two_outputs():
    student = tiny.student()
    other = keras.layers.Dense(4, "softmax")(student.get_layer("pool").output)
    return keras.Model(student.input, [student.output, other])


MODELS = {
    "defaults": dict,
    "options": lambda: {
        "balance": 0.7,
        "student_batch_norm": "all",
        "switch_points": [("out1", "out1"), ("out3", "out3")],
        "track_paths": True,
    },
    "sizes": lambda: {
        "teacher": tiny.teacher(size=24),
        "teacher_preprocessing": keras.layers.Resizing(24, 24),
    },
    # The second of the two paths, as the count of iterations in the file says.
    "one path": lambda: {"paths_per_step": 1},
    "plus": lambda: {"plus": AttentionTransfer(10.0)},
    "baseline": lambda: {"method": "overhaul"},
    "tokens": lambda: {
        "teacher": token_networks.hidden_vit(depth=2),
        "student": token_networks.swin(stages=2),
    },
    backend_process.TWO_OUTPUTS: lambda: {"student": with_two_outputs()},
    backend_process.DETECTOR: lambda: {
        "teacher": tiny.teacher(size=None),
        # So few anchors that the loss samples all of them: no randomness is left in it.
        "student": small((8,), anchor_heights=(24,)),
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Compiled models in files, and what one step on JAX made of them."""
    folder = tmp_path_factory.mktemp("backends")
    for name, settings in MODELS.items():
        networks = {"teacher": tiny.teacher(), "student": tiny.student()}
        settings = settings()
        kind = FeatureTransfer if "method" in settings else HybridTransfer
        model = kind(**{**networks, **settings})
        how = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
        if name == backend_process.DETECTOR:
            how = {}
        if name == backend_process.TWO_OUTPUTS:
            how["metrics"] = [how["metrics"]] * 2
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), **how)
        model.optimizer.build(model.trainable_variables)
        model.optimizer._iterations.assign(name == "one path")
        model.save(folder / f"{name}.keras")
    images, labels = tiny.batch(8)
    np.savez(folder / "data.npz", images=images, labels=labels)
    images, truth = people(2)
    np.savez(folder / "people.npz", images=images, **truth)
    script = pathlib.Path(backend_process.__file__)
    paths = os.pathsep.join([str(script.parent), *PATH.values()])
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # which take longer than the steps
        "PYTHONPATH": paths,
    }
    subprocess.run([sys.executable, script, folder], env=environment, check=True)
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_a_step_equals_tensorflows(name, folder, eager):
    path = folder / f"{name}.keras"
    expected = backend_process.one_step(path, *backend_process.data_of(path))
    with np.load(folder / f"{name}.npz") as received:
        assert set(received) == set(expected)
        for key, value in expected.items():
            np.testing.assert_allclose(received[key], value, atol=1e-5, err_msg=key)
