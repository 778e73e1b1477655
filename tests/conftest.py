"""Set up before TensorFlow starts: two logical CPUs for the tests of MirroredStrategy."""

import gc
import os

# As in `keras_hybrid`, which is not the first here to import TensorFlow.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import pytest
import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(7)
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")
    forget_custom_gradients()
    keras.backend.clear_session()


def forget_custom_gradients():
    """TensorFlow keeps them for ever, and by them every train step's graph: 9 GB."""
    gradients = gradient_registry._registry
    for name in [name for name in gradients if name.startswith("CustomGradient-")]:
        del gradients[name]


# `clear_session` collects garbage, and need not look through all of TensorFlow each time.
gc.freeze()
