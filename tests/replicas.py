"""A MirroredStrategy whose replicas are the logical CPUs of conftest.py."""

import functools

import tensorflow as tf


@functools.cache
def strategy(replicas):
    # Cached: TensorFlow mixes up the collectives of two strategies on the same CPUs.
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    return tf.distribute.MirroredStrategy(devices[:replicas])
