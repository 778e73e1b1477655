"""Names of the classes of label maps, in the order of their values."""

import codecs

import numpy as np

from keras_hybrid.data.segmentation.dataset import IGNORED
from keras_hybrid.data.segmentation.decoding import UNKNOWN

_NO_CLASS = "void", "unlabelled", "unlabeled", "ignore", "ignored"
_MOST = IGNORED  # values of a label map that can be classes


def read(path):
    """Reads a text file with the name of class n in line n+1.

    Pixels of a class named Void, and those of value 255, are of no class. An empty line
    is that of a class without a name, which becomes "class n"; at the end it is none.

    Returns:
        (names, class_of), see `of_names`.

    Raises:
        ValueError: It is no such file.
    """
    text = _text(path).rstrip()
    lines = text.split("\n") if text else []
    names = [line.strip() or f"class {value}" for value, line in enumerate(lines)]
    counted = [name for name in names if name.lower() not in _NO_CLASS]
    twice = [name for name in counted if counted.count(name) > 1]
    if twice or not 1 <= len(names) <= _MOST:
        received = f"{twice[0]!r} twice" if twice else f"{len(names)} names"
        raise ValueError(
            f"{path} must name 1 to {_MOST} classes, each in a line of its own and once. "
            f"Received: {received}"
        )
    return of_names(names)


def of_names(names):
    """(names that are of a class, value in a label map -> class as `source_of_files`)."""
    classes = [name for name in names if name.lower() not in _NO_CLASS]
    class_of = np.full(256, UNKNOWN, "int16")
    class_of[: len(names)] = [
        classes.index(name) if name in classes else IGNORED for name in names
    ]
    class_of[255] = IGNORED
    return tuple(classes), class_of


def _text(path):
    """Of UTF-8, or UTF-16 with a mark, as Windows writes them."""
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} must be text in UTF-8. Received: line {line} is not. Save it again "
            "with this encoding"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
