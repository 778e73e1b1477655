"""The devices of a run, and its settings for the whole process."""

import contextlib
import functools
import json
import os
import re
from collections.abc import Iterator

import keras
import tensorflow as tf
from absl import logging

from keras_hybrid.recipes.engine.settings import Config

_TF_CONFIG = (
    """TF_CONFIG='{"cluster": {"worker": ["one:2222", "two:2222"]}, """
    """"task": {"type": "worker", "index": 0}}'"""
)
_JOBS = "chief", "worker"


@contextlib.contextmanager
def settings_of(config: Config) -> Iterator[None]:
    """Sets settings of the whole process for a run, and restores them at the end.

    One is Keras's dtype policy, which follows --mixed_precision. The other makes runs on
    a CPU reproducible to the last bit, by switching off TensorFlow's graph optimizer: in
    graphs that TensorFlow 2.21 has rewritten, the order in which gradients are added
    depends on which is computed first. Of its passes only `dependency_optimization` is
    worth having, and with it alone 3 of 8 processes ended 40 steps with other weights.
    GPUs need the rewriting.
    """
    policy = keras.config.dtype_policy()
    options = tf.config.optimizer.get_experimental_options()
    try:
        keras.config.set_dtype_policy(
            "mixed_float16" if config.mixed_precision else "float32"
        )
        if not tf.config.list_physical_devices("GPU"):
            tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        tf.config.optimizer.set_experimental_options(options)


def open_strategy(name: str) -> tf.distribute.Strategy:
    """Returns the strategy in whose scope to build the model. Call it first of all.

    Args:
        name: `"none"`, `"mirrored"` for all GPUs of this machine, or `"multi_worker"`
            for the GPUs of all machines in the environment variable `TF_CONFIG`.

    Raises:
        ValueError: `TF_CONFIG` is missing or invalid.
        OSError: This machine cannot listen at its address in `TF_CONFIG`.
    """
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    if name == "multi_worker":
        return _all_machines(os.environ.get("TF_CONFIG"))
    return tf.distribute.get_strategy()


@functools.cache  # TensorFlow lets a process do it only once.
def _all_machines(tf_config):
    """The strategy for the machines of a TF_CONFIG."""
    _check_machines(tf_config)
    logging.info("Waiting for the other machines in TF_CONFIG")
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.UnknownError as error:  # such as a port that is taken
        raise OSError(
            "This machine must be able to listen at its address in TF_CONFIG. "
            f"Received: TF_CONFIG={tf_config}, for which TensorFlow reports: "
            f"{error.message}"
        ) from error


def _check_machines(tf_config):
    """Refuses a TF_CONFIG with which TensorFlow would wait, or fail without naming it."""
    fault = "nothing" if tf_config is None else _fault_of_machines(tf_config)
    if fault:
        raise ValueError(
            "TF_CONFIG must list the machines for --strategy=multi_worker, such as "
            f"{_TF_CONFIG}. Received: {fault}"
        )


def _fault_of_machines(tf_config):
    """What is wrong with the text of TF_CONFIG; None if nothing is."""
    received = f"TF_CONFIG={' '.join(tf_config.split())[:300]!r}"
    try:
        content = json.loads(tf_config)
    except ValueError as error:
        return f"{received}, which is not JSON: {error}"
    cluster, task = (
        content.get(key) if isinstance(content, dict) else None
        for key in ("cluster", "task")
    )
    if not isinstance(cluster, dict) or not cluster or set(cluster) - {*_JOBS}:
        return f"{received}, which must have a cluster of worker and, optionally, chief"
    if not all(isinstance(addresses, list) for addresses in cluster.values()):
        return f"{received}, whose cluster must have a list of addresses for each type"
    addresses = [address for job in cluster.values() for address in job]
    for address in addresses:
        if (
            not re.fullmatch(r"[^\s/]+:\d{1,5}", str(address))
            or addresses.count(address) > 1
        ):
            return f"{received}, whose {address!r} must be host:port of one machine"
    job, index = (
        task.get(key) if isinstance(task, dict) else None for key in ("type", "index")
    )
    machines = cluster.get(job, ()) if isinstance(job, str) else ()
    if not (str(index).isdecimal() and int(index) < len(machines)):
        return (
            f"{received}, whose task must be one of the cluster's machines, by its type "
            "and its index from 0"
        )
    return None
