"""The logical CPUs of conftest.py as the replicas of one strategy."""

import functools

import tensorflow as tf


@functools.cache
def strategy(replicas):
    # One for all tests: TensorFlow mixes up the collectives of two on the same CPUs.
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    return tf.distribute.MirroredStrategy(devices[:replicas])
