"""Description of the machine for the first line of a benchmark's output."""

import importlib.metadata
import os
import pathlib
import platform

import keras

# Instruction sets by their flags in /proc/cpuinfo, from the widest to the narrowest.
_ISAS = {
    "amx_tile": "AMX",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "avx": "AVX",
}


def describe(*packages: str) -> str:
    """Returns CPU, cores, instruction set, state of oneDNN and versions in one line.

    Args:
        *packages: Names of packages whose versions matter besides those of Keras and its
            backend.

    Example:

    >>> describe()
    'AMD EPYC, 2 cores, AVX-512 VNNI, oneDNN on, tensorflow 2.21.0, keras 3.15.1'
    """
    backend = keras.backend.backend()
    parts = [cpu_model(), f"{len(os.sched_getaffinity(0))} cores", isa()]
    if backend == "tensorflow":
        parts.append(_onednn())
    for package in (backend, "keras", *packages):
        parts.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(parts)


def cpu_model() -> str:
    """Returns the CPU's name from Linux's /proc, or its architecture elsewhere."""
    return _cpuinfo("model name") or platform.machine()


def isa() -> str:
    """Returns the CPU's widest vector instructions, and oneDNN's limit if one is set."""
    flags = _cpuinfo("flags").split()
    widest = next((isa for flag, isa in _ISAS.items() if flag in flags), None)
    name = widest or platform.machine()
    most = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return f"{name} (ONEDNN_MAX_CPU_ISA={most})" if most else name


def _cpuinfo(field):
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    values = (line.partition(":") for line in lines)
    return next((text.strip() for name, _, text in values if name.strip() == field), "")


def _onednn():
    # As `tensorflow.python.framework.test_util.IsMklEnabled` does.
    from tensorflow.python.util import _pywrap_util_port

    return f"oneDNN {'on' if _pywrap_util_port.IsMklEnabled() else 'off'}"
