"""How TensorFlow starts: with oneDNN, and without its banners."""

import contextlib
import gc
import os
import platform
import re
import sys
import tempfile

from absl import logging

_SWITCH = "TF_ENABLE_ONEDNN_OPTS"
# What shared libraries of TensorFlow write when they are loaded, whatever
# TF_CPP_MIN_LOG_LEVEL is, and what it says where no NVIDIA driver is installed.
_BANNERS = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\)"
    rb"|.*\boneDNN custom operations are on"
    rb"|.*\bCould not find cuda drivers"
    rb"|.*\bTensorFlow binary is optimized to use available CPU instructions"
    rb"|To enable the following instructions: "
    rb"|.*\bfailed call to cuInit: .*UNKNOWN ERROR \(303\)"
)


def import_keras():
    """Imports Keras, and TensorFlow with it where that is the backend.

    TensorFlow reads once, when it is imported, whether to use oneDNN. By itself it does
    only on CPUs with AVX-512 VNNI; a step of an older x86 CPU takes seven times as long.
    """
    switches = (
        os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow"
        and _SWITCH not in os.environ
    )
    too_late = switches and "tensorflow" in sys.modules
    if switches:
        os.environ[_SWITCH] = "1"
    with without_banners(), _without_collecting():
        import keras
    if keras.backend.backend() != "tensorflow":
        if switches:  # since Keras's configuration file alone names the backend
            del os.environ[_SWITCH]
    elif too_late and not _onednn_is_on():
        logging.warning(
            "TensorFlow was imported before keras_hybrid, and leaves oneDNN off on this "
            "CPU: training takes several times as long. Import keras_hybrid first, or "
            "set %s=1 in the environment",
            _SWITCH,
        )


def _onednn_is_on():
    """True also where there is no switch: on CPUs other than x86."""
    from tensorflow.python.util import _pywrap_util_port

    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return not is_x86 or _pywrap_util_port.IsMklEnabled()


@contextlib.contextmanager
def _without_collecting():
    """The garbage collector leaves alone what is imported, now and later.

    That is a million objects and next to no garbage: looking through them takes a tenth
    of this import's time, and then half a second again and again.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


@contextlib.contextmanager
def without_banners():
    """Holds back what C++ writes to stderr, and then writes it but for the banners."""
    try:
        stderr, held = os.dup(2), tempfile.TemporaryFile()  # noqa: SIM115
    except OSError:  # stderr is closed, or the disk is full
        yield
        return
    with held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            lines = [line for line in held if not _BANNERS.match(line)]
            os.write(2, b"".join(lines))
