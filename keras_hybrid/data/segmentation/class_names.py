"""Class names of label maps, in the order of the label values."""

import codecs
import pathlib
from collections.abc import Sequence

import numpy as np

from keras_hybrid.data.segmentation.dataset import IGNORED
from keras_hybrid.data.segmentation.decoding import UNKNOWN

_NO_CLASS = "void", "unlabelled", "unlabeled", "ignore", "ignored"
_MOST = IGNORED  # number of label values that can be classes


def read(path: pathlib.Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Reads a text file with the name of class n on line n+1.

    Pixels of a class named Void or the like, and pixels of value 255, have no class. An
    empty line denotes a class without a name, which becomes "class n"; empty lines at the
    end are skipped.

    Returns:
        (names, class_of), see `of_names`.

    Raises:
        ValueError: If the file is anything else.
    """
    text = _text(path).rstrip()
    lines = text.split("\n") if text else []
    names = [line.strip() or f"class {value}" for value, line in enumerate(lines)]
    counted = [name for name in names if name.lower() not in _NO_CLASS]
    twice = [name for name in counted if counted.count(name) > 1]
    if twice or not 1 <= len(names) <= _MOST:
        received = f"{twice[0]!r} twice" if twice else f"{len(names)} names"
        raise ValueError(
            f"{path} must name 1 to {_MOST} classes, each once and on a line of its own. "
            f"Received: {received}"
        )
    return of_names(names)


def of_names(names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Maps label values to classes, given the name of each value.

    Returns:
        (names, class_of): the names without Void and the like, and the class of each
        label value as in `source_of_files`.
    """
    classes = [name for name in names if name.lower() not in _NO_CLASS]
    class_of = np.full(256, UNKNOWN, "int16")
    class_of[: len(names)] = [
        classes.index(name) if name in classes else IGNORED for name in names
    ]
    class_of[255] = IGNORED
    return tuple(classes), class_of


def _text(path):
    """Text in UTF-8, or in UTF-16 with a byte order mark, as Windows writes them."""
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} must be text in UTF-8. Received: line {line} is not. Save it again "
            "in this encoding"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
