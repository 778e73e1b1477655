"""Checked access to records of users' JSON files; errors name the record's index."""

import contextlib
import json
import math
import numbers
import os
import pathlib
import textwrap
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from absl import logging

_SHOWN = 300  # characters of a record in a message, as polygons may be long


class MalformedError(Exception):
    """What a record must be or have, such as `'have a finite number as "score"'`."""


def content_of(source: Any) -> Any:
    """Returns the content of a JSON file if `source` is a path, else `source` itself.

    UTF-8, UTF-16 and UTF-32 are read, with or without a byte order mark.

    Raises:
        ValueError: The file is not JSON.
    """
    if not isinstance(source, str | os.PathLike):
        return source
    try:
        return json.loads(pathlib.Path(source).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not a JSON file: {error}") from error


def lists_of(content: Any, name: str | os.PathLike, *keys: str) -> list[Sequence[Any]]:
    """Returns the list `content[key]` of each of `keys`.

    Raises:
        ValueError: A list is missing; the message has the `name` and says what is there.
    """
    found = type(content).__name__
    if isinstance(content, dict):
        lists: list[Any] = [content.get(key) for key in keys]
        if all(isinstance(one, list | tuple) for one in lists):
            return lists
        found += f" with {', '.join(map(repr, list(content)[:10])) or 'nothing'}"
    wanted = " and ".join(f'"{key}"' for key in keys)
    raise ValueError(
        f"{name} must be a dictionary with lists of records as {wanted}. Received: "
        f"{found}"
    )


def name_of(source: Any) -> str | os.PathLike:
    """Returns a path as it is; of any other object, the name of its type."""
    return source if isinstance(source, str | os.PathLike) else type(source).__name__


@contextlib.contextmanager
def naming(source: Any, place: str, record: Any) -> Iterator[None]:
    """Turns a `MalformedError` into a ValueError that names file, place and record."""
    try:
        if not isinstance(record, dict):
            raise MalformedError("be a dictionary")
        yield
    except MalformedError as error:
        file = f"{source}: " if isinstance(source, str | os.PathLike) else ""
        shown = textwrap.shorten(repr(record), _SHOWN, placeholder=" ...")
        raise ValueError(f"{file}{place} must {error}. Received: {shown}") from None


def identity(
    record: Mapping[str, Any], key: str, known: Container[int | str] | None = None
) -> int | str:
    """Returns the integer or string `record[key]`, one of `known` if that is given."""
    value: Any = record.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas writes integers as floats in a column with gaps
    is_identity = isinstance(value, numbers.Integral | str) and value != ""
    if not is_identity:
        raise MalformedError(f'have an integer or a string as "{key}"')
    if known is not None and value not in known:
        raise MalformedError(f'have an "{key}" of one of the images')
    return value


def is_empty(record: Mapping[str, Any], key: str) -> bool:
    """Whether `record[key]` is there, but null or a float that is not an integer.

    pandas writes gaps as NaN.
    """
    value = record.get(key, key)
    return value is None or (isinstance(value, float) and not value.is_integer())


def order_of(identity: int | str) -> tuple[bool, int | str]:
    """Sort key of identities: numbers come first, then strings."""
    return isinstance(identity, str), identity


def images_of(
    source: Any, images: Sequence[Any], with_names: bool = False
) -> dict[int | str, dict[str, Any]]:
    """Returns {id: record} of the images; one that is listed twice appears once.

    The ids 1 and "1" count as equal.

    Args:
        source: Path of the file, or its content.
        images: The file's `"images"`.
        with_names: Whether every image must have a file name.

    Raises:
        ValueError: A record is malformed, or has the id of another image.
    """
    found: dict[str, tuple[int | str, dict[str, Any]]] = {}
    left_out = []
    for index, record in enumerate(images):
        place = f"images[{index}]"
        with naming(source, place, record):
            if is_empty(record, "id"):
                left_out.append(place)
                continue
            if with_names:
                identity(record, _name_key(record))
            image_id = identity(record, "id")
            other = name_of_image(found.setdefault(str(image_id), (image_id, record))[1])
            if other != name_of_image(record):
                raise MalformedError(f'have an "id" of its own, not that of {other!r}')
    warn_of_left_out(name_of(source), "images without an id", left_out)
    return dict(found.values())


def name_of_image(record: Mapping[str, Any]) -> Any:
    """Returns the file name of an image, or the whole record if it has none."""
    return record.get(_name_key(record), record)


def _name_key(record):
    """The key of the file name; copies of CityPersons' val_gt.json have either."""
    return "im_name" if "file_name" not in record and "im_name" in record else "file_name"


def number(record: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """Returns the finite number `record[key]`; `default` if it is missing or null."""
    value: Any = record.get(key)
    value = default if value is None else value
    is_finite = isinstance(value, numbers.Real) and math.isfinite(value)
    if not is_finite:
        raise MalformedError(f'have a finite number as "{key}"')
    return value


def box(
    record: Mapping[str, Any], key: str = "bbox"
) -> tuple[float, float, float, float]:
    """Returns (x, y, width, height) of `record[key]`."""
    if (found := box_or_none(record, key)) is None:
        raise _not_a_box(key)
    return found


def box_or_none(
    record: Mapping[str, Any], key: str = "bbox"
) -> tuple[float, float, float, float] | None:
    """Returns the `box`, or None if it is null, empty, negative or not finite.

    Such a box is useless, but the file is well-formed.
    """
    try:
        values = record[key]
        if values is None or len(values) == 0:
            return None
        x, y, width, height = values
        if None in (x, y, width, height) or not math.isfinite(x + y + width + height):
            return None
        return (x, y, width, height) if width >= 0 and height >= 0 else None
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _not_a_box(key) from None


def _not_a_box(key):
    return MalformedError(
        f'have "{key}": [x, y, width, height], finite, width and height at least 0'
    )


def warn_of_left_out(name: str | os.PathLike, what: str, places: Sequence[str]) -> None:
    """Logs, in one line, how many of `what` are left out of the file `name`."""
    if places:
        logging.warning(
            "%s: leaving out %d %s, such as %s", name, len(places), what, places[0]
        )
