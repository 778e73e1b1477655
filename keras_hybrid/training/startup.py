"""Imports TensorFlow with oneDNN, and without its banners."""

import contextlib
import gc
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator

from absl import logging

_SWITCH = "TF_ENABLE_ONEDNN_OPTS"
# What shared libraries of TensorFlow write when they are loaded, regardless of
# TF_CPP_MIN_LOG_LEVEL, and what it reports where no NVIDIA driver is installed.
_BANNERS = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\)"
    rb"|.*\boneDNN custom operations are on"
    rb"|.*\bCould not find cuda drivers"
    rb"|.*\bTensorFlow binary is optimized to use available CPU instructions"
    rb"|To enable the following instructions: "
    rb"|.*\bfailed call to cuInit: .*UNKNOWN ERROR \(303\)"
)


def import_keras() -> None:
    """Imports Keras, and TensorFlow with it where that is the backend.

    TensorFlow decides once, when it is imported, whether to use oneDNN. By default it
    does so only on CPUs with AVX-512 VNNI; on an older x86 CPU, a training step then
    takes seven times as long.
    """
    switches = (
        os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow"
        and _SWITCH not in os.environ
    )
    too_late = switches and "tensorflow" in sys.modules
    if switches:
        os.environ[_SWITCH] = "1"
    with without_banners(), _without_garbage_collection():
        import keras
    if keras.backend.backend() != "tensorflow":
        if switches:  # only Keras's configuration file names the other backend
            del os.environ[_SWITCH]
    elif too_late and not _onednn_is_on():
        logging.warning(
            "TensorFlow was imported before keras_hybrid, and leaves oneDNN off on this "
            "CPU: training takes several times as long. Import keras_hybrid first, or "
            "set %s=1 in the environment",
            _SWITCH,
        )


def _onednn_is_on():
    """Whether oneDNN is on; also True where it has no switch, on CPUs other than x86."""
    from tensorflow.python.util import _pywrap_util_port

    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return not is_x86 or _pywrap_util_port.IsMklEnabled()


@contextlib.contextmanager
def _without_garbage_collection():
    """Keeps the garbage collector from scanning what is imported, now and later.

    That is a million objects and almost no garbage: scanning them takes a tenth of the
    time of this import, and half a second each time afterwards.
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
def without_banners() -> Iterator[None]:
    """Holds back what is written to stderr, then writes it without the banners."""
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
