"""Checks of TF_CONFIG, and restoring of the global settings of the process."""

import contextlib
import json
import types

import keras
import pytest
import tensorflow as tf

from keras_hybrid.recipes import imagenet
from keras_hybrid.recipes.engine import devices

CLUSTER = {"worker": ["one:2222", "two:2222"]}
TASK = {"type": "worker", "index": 0}


@pytest.fixture(autouse=True)
def without_cached_strategy():
    """Forget the multi-worker strategy, as in a new process."""
    yield
    devices._all_machines.cache_clear()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Received: nothing"),
        ("", "TF_CONFIG='', which is not JSON"),
        ("{'cluster': 1}", "which is not JSON"),
        ("[]", "which must have a cluster"),
        ({"task": TASK}, "which must have a cluster"),
        ({"cluster": {}, "task": TASK}, "which must have a cluster"),
        ({"cluster": {"ps": ["a:1"]}, "task": TASK}, "which must have a cluster of work"),
        ({"cluster": {"worker": "one:2222"}, "task": TASK}, "a list of addresses"),
        ({"cluster": {"worker": ["one"]}, "task": TASK}, "whose 'one' must be host:port"),
        ({"cluster": {"worker": [2]}, "task": TASK}, "whose 2 must be host:port"),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": TASK}, "of one machine"),
        ({"cluster": CLUSTER}, "whose task must be one of the cluster's machines"),
        ({"cluster": CLUSTER, "task": "worker"}, "whose task must be one"),
        ({"cluster": CLUSTER, "task": {**TASK, "index": 2}}, "whose task must be one"),
        ({"cluster": CLUSTER, "task": {**TASK, "index": -1}}, "whose task must be one"),
        ({"cluster": CLUSTER, "task": {**TASK, "type": "chief"}}, "whose task must be"),
        ({"cluster": CLUSTER, "task": {**TASK, "type": ["worker"]}}, "whose task must"),
    ],
)
def test_an_invalid_tf_config_is_reported_in_one_line(content, message, monkeypatch):
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", None)
    if content is None:
        monkeypatch.delenv("TF_CONFIG", raising=False)
    else:
        text = content if isinstance(content, str) else json.dumps(content, indent=1)
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=message) as error:
        devices.open_strategy("multi_worker")
    assert 'TF_CONFIG=\'{"cluster"' in str(error.value)  # an example of a valid value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        {"cluster": CLUSTER, "task": TASK},
        {"cluster": {"chief": ["a:1"], **CLUSTER}, "task": {**TASK, "index": "1"}},
        {"cluster": {"chief": ["[::1]:99"]}, "task": {"type": "chief", "index": 0}},
    ],
)
def test_a_valid_tf_config_opens_the_strategy(content, monkeypatch):
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", lambda: "opened")
    monkeypatch.setenv("TF_CONFIG", json.dumps(content))
    assert devices.open_strategy("multi_worker") == "opened"


def test_an_address_in_use_is_reported(monkeypatch):
    def fail():
        raise tf.errors.UnknownError(None, None, "Could not start gRPC server")

    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", fail)
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": CLUSTER, "task": TASK}))
    with pytest.raises(OSError, match="its address in TF_CONFIG.*one:2222.*gRPC"):
        devices.open_strategy("multi_worker")


def settings():
    return (
        keras.config.dtype_policy().name,
        tf.config.optimizer.get_experimental_options(),
    )


@pytest.mark.parametrize("rewriting", [False, True])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_global_settings_are_restored_after_a_run(policy, rewriting):
    keras.config.set_dtype_policy(policy)
    before = tf.config.optimizer.get_experimental_options()
    try:
        tf.config.optimizer.set_experimental_options(
            {"disable_meta_optimizer": not rewriting}
        )
        found = settings()
        within = []

        config = types.SimpleNamespace(mixed_precision=True)
        with devices.settings_of(config):
            within.append(settings())
        assert settings() == found
        with contextlib.suppress(ValueError), devices.settings_of(config):
            within.append(settings())
            raise ValueError
        assert settings() == found
        assert len(within) == 2
        for name, options in within:
            assert name == "mixed_float16"
            assert options["disable_meta_optimizer"]
    finally:
        tf.config.optimizer.set_experimental_options(before)


def test_global_settings_are_restored_after_a_failed_start(tmp_path):
    found = settings()
    config = imagenet.Config(
        workdir=str(tmp_path), data_dir="/nowhere", mixed_precision=True
    )
    for function in (imagenet.main, imagenet.prepare):
        with pytest.raises(OSError, match="/nowhere"):
            function(config)
        assert settings() == found
