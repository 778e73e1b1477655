"""Shared fixtures, and two logical CPUs for the tests of MirroredStrategy."""

import contextlib
import functools
import gc
import inspect
import os

with contextlib.suppress(ImportError):
    # PyTorch needs it. It crashes after TensorFlow 2.21 (tensorflow/tensorflow#124205).
    import triton  # noqa: F401

import keras_hybrid  # noqa: F401  before TensorFlow: oneDNN is on

# isort: split
import keras
import pytest
import tensorflow as tf
from keras.src.applications import convnext, densenet, efficientnet, resnet
from tensorflow.python.framework.ops import gradient_registry

import lean_tensorflow

lean_tensorflow.switch_on()
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)
# Compiling takes longer than what it saves, here and in JAX's processes.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)
# Grappler is off, as in the recipes on a CPU: optimizing a graph takes longer than the
# few steps of a test.
_NO_GRAPH_REWRITING = {"disable_meta_optimizer": True}
tf.config.optimizer.set_experimental_options(_NO_GRAPH_REWRITING)


# The slowest files, the slowest first. xdist distributes tests in this order, so
# that its workers finish at about the same time.
_LONG = (
    "documented_test.py",
    "resuming_test.py",
    "citypersons_test.py",
    "transfer_test.py",
    "transfer_keras_test.py",
    "faster_rcnn_test.py",
    "cityscapes_test.py",
    "feature_transfer_test.py",
    "multi_worker_test.py",
    "gradient_step_test.py",
    "tflite_test.py",
    "backends_test.py",
    "imagenet_test.py",
    "students_test.py",
    "main_test.py",
    "detector_test.py",
    "deeplab_v2_test.py",
    "surface_test.py",
)


def pytest_collection_modifyitems(items):
    ranks = {name: rank for rank, name in enumerate(_LONG)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef):
    """Seed fixtures that several tests share; they are set up before `seeded`."""
    if fixturedef.scope != "function":
        keras.utils.set_random_seed(7)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(7)
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")
    clear_custom_gradient_registry()
    keras.backend.clear_session()
    gc.freeze()  # Later collections skip the objects that are still alive.


@pytest.fixture
def graph_optimization():
    """Turn on graph optimization, TensorFlow's default outside of the recipes."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    yield
    tf.config.optimizer.set_experimental_options(_NO_GRAPH_REWRITING)


def clear_custom_gradient_registry():
    """Delete custom gradients, which TensorFlow never frees.

    Each keeps the graph of its train step alive, 9 GB in all.
    """
    gradients = gradient_registry._registry
    for name in [name for name in gradients if name.startswith("CustomGradient-")]:
        del gradients[name]


@pytest.fixture
def shallow(monkeypatch):
    """Build networks of Keras with at most two blocks per stage instead of up to 24."""
    for module, name in (
        (resnet, "stack_residual_blocks_v1"),
        (resnet, "stack_residual_blocks_v2"),
        (densenet, "dense_block"),
    ):
        monkeypatch.setattr(module, name, _with_two_blocks(getattr(module, name)))
    blocks = [{**block, "repeats": 1} for block in efficientnet.DEFAULT_BLOCKS_ARGS]
    monkeypatch.setattr(efficientnet, "DEFAULT_BLOCKS_ARGS", blocks)
    monkeypatch.setitem(convnext.MODEL_CONFIGS["tiny"], "depths", [1, 1, 1, 1])


def _with_two_blocks(stack):
    @functools.wraps(stack)
    def with_two_blocks(*args, **kwargs):
        given = inspect.signature(stack).bind(*args, **kwargs)
        return stack(**{**given.arguments, "blocks": 2})

    return with_two_blocks


@pytest.fixture
def eager(monkeypatch):
    """Run models eagerly: tracing a graph takes longer than the few steps of a test.

    Other tests train each method in graph mode.
    """
    run_eagerly = property(lambda model: True, lambda model, value: None)
    monkeypatch.setattr(keras.Model, "run_eagerly", run_eagerly)
