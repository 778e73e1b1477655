"""Records of JSON files from outside: what is wrong with one is said with its index."""

import contextlib
import json
import math
import numbers
import os


class MalformedError(Exception):
    """What a record must be or have, such as `'have a finite number as "score"'`."""


def content_of(source):
    """What `source` is or, if it is a path, holds as JSON.

    Raises:
        ValueError: It holds none.
    """
    if not isinstance(source, str | os.PathLike):
        return source
    with open(source, encoding="utf-8") as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise ValueError(f"{source} is no JSON file: {error}") from error


def name_of(source):
    """A path, or what type the object is."""
    return source if isinstance(source, str | os.PathLike) else type(source).__name__


@contextlib.contextmanager
def naming(source, place, record):
    """Turns a `MalformedError` into a ValueError that names file, place and record."""
    try:
        if not isinstance(record, dict):
            raise MalformedError("be a dictionary")
        yield
    except MalformedError as error:
        file = f"{source}: " if isinstance(source, str | os.PathLike) else ""
        raise ValueError(f"{file}{place} must {error}. Received: {record!r}") from None


def identity(record, key, known=None):
    """The number or text `record[key]`, one of `known` if that is given."""
    value = record.get(key)
    if not isinstance(value, numbers.Integral | str):
        raise MalformedError(f'have a number or a text as "{key}"')
    if known is not None and value not in known:
        raise MalformedError(f'have an "{key}" of one of the images')
    return value


def number(record, key, default=None):
    """The finite number `record[key]`."""
    value = record.get(key, default)
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise MalformedError(f'have a finite number as "{key}"')
    return value


def box(record, key="bbox"):
    """[x, y, width, height] of `record[key]`."""
    try:
        x, y, width, height = record.get(key)
        if math.isfinite(x + y) and 0 <= width < math.inf and 0 <= height < math.inf:
            return x, y, width, height
    except (TypeError, ValueError):
        pass
    raise MalformedError(
        f'have "{key}": [x, y, width, height], finite, width and height at least 0'
    )
