"""Set up before TensorFlow starts: two logical CPUs for the tests of MirroredStrategy."""

import functools
import gc
import inspect

import keras_hybrid  # noqa: F401  before TensorFlow: oneDNN is on

# isort: split
import keras
import pytest
import tensorflow as tf
from keras.src.applications import convnext, densenet, efficientnet, resnet
from tensorflow.python.framework.ops import gradient_registry

import plain_eager

plain_eager.switch_on()
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)
# Graphs run as they are written, as in the recipes on a CPU: to rewrite one takes longer
# than the few steps of a test.
_AS_WRITTEN = {"disable_meta_optimizer": True}
tf.config.optimizer.set_experimental_options(_AS_WRITTEN)


# Files that take minutes, the longest first: xdist gives them out in this order, and its
# workers end at about the same time.
_LONG = (
    "documented_test.py",
    "resuming_test.py",
    "citypersons_test.py",
    "faster_rcnn_test.py",
    "imagenet_test.py",
    "multi_worker_test.py",
    "backends_test.py",
    "cityscapes_test.py",
    "transfer_test.py",
    "feature_transfer_test.py",
)


def pytest_collection_modifyitems(items):
    ranks = {name: rank for rank, name in enumerate(_LONG)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(7)
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")
    forget_custom_gradients()
    keras.backend.clear_session()
    gc.freeze()  # The next one need not look for garbage in what has stayed.


@pytest.fixture
def rewriting():
    """TensorFlow rewrites graphs, as it does in a `fit` outside of the recipes."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    yield
    tf.config.optimizer.set_experimental_options(_AS_WRITTEN)


def forget_custom_gradients():
    """TensorFlow keeps them for ever, and by them every train step's graph: 9 GB."""
    gradients = gradient_registry._registry
    for name in [name for name in gradients if name.startswith("CustomGradient-")]:
        del gradients[name]


@pytest.fixture
def shallow(monkeypatch):
    """At most two blocks a stage in some networks of Keras, which have up to 24."""
    for module, name in (
        (resnet, "stack_residual_blocks_v1"),
        (resnet, "stack_residual_blocks_v2"),
        (densenet, "dense_block"),
    ):
        monkeypatch.setattr(module, name, _of_two_blocks(getattr(module, name)))
    blocks = [{**block, "repeats": 1} for block in efficientnet.DEFAULT_BLOCKS_ARGS]
    monkeypatch.setattr(efficientnet, "DEFAULT_BLOCKS_ARGS", blocks)
    monkeypatch.setitem(convnext.MODEL_CONFIGS["tiny"], "depths", [1, 1, 1, 1])


def _of_two_blocks(stack):
    @functools.wraps(stack)
    def of_two(*args, **kwargs):
        given = inspect.signature(stack).bind(*args, **kwargs)
        return stack(**{**given.arguments, "blocks": 2})

    return of_two


@pytest.fixture
def eager(monkeypatch):
    """Models run eagerly: tracing a graph takes longer than the few steps of a test.

    The training of each method has tests in graphs, too.
    """
    run_eagerly = property(lambda model: True, lambda model, value: None)
    monkeypatch.setattr(keras.Model, "run_eagerly", run_eagerly)
