"""The precision in which a frozen teacher computes."""

import contextlib
import os
import pathlib
import re
from collections.abc import Collection, Iterator

import keras
from absl import logging

DTYPES = None, "bfloat16", "float16"
_SCALING = keras.layers.Rescaling, keras.layers.Normalization
# Instructions of x86 CPUs that multiply bfloat16, by their flags in Linux's /proc, and
# parts of the values of ONEDNN_MAX_CPU_ISA that allow them.
_FLAGS = {"avx512_bf16", "amx_bf16"}
_ALLOWING = "BF16", "FP16", "AMX", "AVX10", "DEFAULT"
# Compute capabilities of the first NVIDIA GPUs with tensor cores for it.
_CAPABILITIES = {"bfloat16": (8, 0), "float16": (7, 0)}


def resolve(teacher_dtype: str | None) -> str | None:
    """Returns what a teacher computes in: `teacher_dtype`, if it is no slower for it.

    Without instructions for it, a CPU takes two to a hundred times as long, and a GPU
    without tensor cores for it is no faster: then it is None, and one line says so.

    Raises:
        ValueError: `teacher_dtype` is not one of `DTYPES`.
    """
    if teacher_dtype not in DTYPES:
        raise ValueError(
            '`teacher_dtype` must be None, "bfloat16" or "float16". Received: '
            f"teacher_dtype={teacher_dtype!r}"
        )
    if teacher_dtype is None or _is_fast(teacher_dtype):
        return teacher_dtype
    logging.warning(
        "The teacher computes as without teacher_dtype=%r, since this machine would take "
        "longer with it",
        teacher_dtype,
    )
    return None


def _is_fast(dtype):
    backend = keras.backend.backend()
    gpus_of = {"tensorflow": _gpus_of_tensorflow, "jax": _gpus_of_jax}
    capabilities = gpus_of.get(backend, _gpus_of_torch)()
    if capabilities is not None:
        return all(capability >= _CAPABILITIES[dtype] for capability in capabilities)
    # JAX has none of oneDNN's kernels on a CPU.
    has_onednn = backend != "jax" and (
        backend == "torch" or os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0"
    )
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    return (
        dtype == "bfloat16"
        and has_onednn
        and any(part in most for part in _ALLOWING)
        and not _FLAGS.isdisjoint(_flags_of_cpu())
    )


# Each returns the compute capabilities of the GPUs that have one, None without a GPU.
def _gpus_of_tensorflow():
    import tensorflow as tf

    gpus = tf.config.get_visible_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    known = [d["compute_capability"] for d in details if "compute_capability" in d]
    return known if gpus else None


def _gpus_of_jax():
    import jax

    devices = jax.devices()
    if devices[0].platform == "cpu":
        return None
    # Of NVIDIA's, such as "9.0"; AMD's have another, and TPUs none.
    found = [getattr(device, "compute_capability", "") for device in devices]
    matches = [re.fullmatch(r"(\d+)\.(\d+)", str(capability)) for capability in found]
    return [(int(match[1]), int(match[2])) for match in matches if match]


def _gpus_of_torch():
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return [torch.cuda.get_device_capability(i) for i in range(count)]
    return [] if torch.accelerator.is_available() else None


def _flags_of_cpu():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not on Linux
        return []
    return next((line.split() for line in lines if line.startswith("flags")), [])


@contextlib.contextmanager
def computing_in(
    dtype: str | None, model: keras.Model, but: Collection[keras.Operation] = ()
) -> Iterator[None]:
    """Lets the layers of a model compute in `dtype`, on their weights as they are.

    As under Keras's mixed policies, each layer casts its inputs and weights.

    Args:
        dtype: The dtype; None for that of each layer's own policy.
        model: The model.
        but: Layers that stay as they are, as do quantized ones and those that scale
            pixels, for which the numbers of such a dtype are too coarse.
    """
    if dtype is None:
        yield
        return
    kept = {
        inner
        for layer in but
        if isinstance(layer, keras.Layer)
        for inner in layer._flatten_layers()
    }
    policies = {
        layer: layer.dtype_policy
        for layer in model._flatten_layers()
        if type(layer.dtype_policy) is keras.DTypePolicy
        and not isinstance(layer, _SCALING)
        and layer not in kept
    }
    mixed = keras.DTypePolicy(f"mixed_{dtype}")
    try:
        for layer in policies:
            vars(layer)["_dtype_policy"] = mixed
        yield
    finally:
        for layer, policy in policies.items():
            vars(layer)["_dtype_policy"] = policy
