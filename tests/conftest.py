"""Set up before TensorFlow starts: two logical CPUs for the tests of MirroredStrategy."""

import gc

import keras
import pytest
import tensorflow as tf

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
    keras.backend.clear_session()


# `clear_session` collects garbage, and need not look through all of TensorFlow each time.
gc.freeze()
