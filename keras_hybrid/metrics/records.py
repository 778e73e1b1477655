"""Records of JSON files from outside: what is wrong with one is said with its index."""

import contextlib
import json
import math
import numbers
import os
import pathlib
import textwrap

from absl import logging

_SHOWN = 300  # characters of a record, which may have polygons


class MalformedError(Exception):
    """What a record must be or have, such as `'have a finite number as "score"'`."""


def content_of(source):
    """What `source` is or, if it is a path, holds as JSON.

    UTF-8, UTF-16 and UTF-32 are read, with a byte order mark or without.

    Raises:
        ValueError: It holds none.
    """
    if not isinstance(source, str | os.PathLike):
        return source
    try:
        return json.loads(pathlib.Path(source).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is no JSON file: {error}") from error


def lists_of(content, name, *keys):
    """The lists `content[key]` of each of `keys`.

    Raises:
        ValueError: They are not there; the message has the `name` and says what is.
    """
    found = type(content).__name__
    if isinstance(content, dict):
        lists = [content.get(key) for key in keys]
        if all(isinstance(one, list | tuple) for one in lists):
            return lists
        found += f" with {', '.join(map(repr, list(content)[:10])) or 'nothing'}"
    wanted = " and ".join(f'"{key}"' for key in keys)
    raise ValueError(
        f"{name} must be a dictionary with lists of records as {wanted}. Received: "
        f"{found}"
    )


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
        shown = textwrap.shorten(repr(record), _SHOWN, placeholder=" ...")
        raise ValueError(f"{file}{place} must {error}. Received: {shown}") from None


def identity(record, key, known=None):
    """The number or text `record[key]`, one of `known` if that is given."""
    value = record.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as pandas writes a column with gaps
    if not isinstance(value, numbers.Integral | str) or value == "":
        raise MalformedError(f'have a number or a text as "{key}"')
    if known is not None and value not in known:
        raise MalformedError(f'have an "{key}" of one of the images')
    return value


def is_empty(record, key):
    """Whether there is a `record[key]`, but null or, as pandas fills gaps, no integer."""
    value = record.get(key, key)
    return value is None or (isinstance(value, float) and not value.is_integer())


def order_of(identity):
    """What to sort by: numbers first, then texts."""
    return isinstance(identity, str), identity


def images_of(source, images, with_names=False):
    """{id: record} of the images; one that is listed twice comes once.

    As ids of two images 1 and "1" are the same.

    Args:
        source: Path of the file, or what it would hold.
        images: Its records.
        with_names: Whether they must have the name of a file.

    Raises:
        ValueError: A record is malformed, or has the id of another image.
    """
    found, left_out = {}, []
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


def name_of_image(record):
    """The name of an image's file; its whole record if it has none."""
    return record.get(_name_key(record), record)


def _name_key(record):
    """Copies of CityPersons' val_gt.json have either."""
    return "im_name" if "file_name" not in record and "im_name" in record else "file_name"


def number(record, key, default=None):
    """The finite number `record[key]`; `default` where it is missing or null."""
    value = record.get(key)
    value = default if value is None else value
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise MalformedError(f'have a finite number as "{key}"')
    return value


def box(record, key="bbox"):
    """[x, y, width, height] of `record[key]`."""
    if (found := box_or_none(record, key)) is None:
        raise _not_a_box(key)
    return found


def box_or_none(record, key="bbox"):
    """As `box`, but None where it is null, empty, negative or not finite.

    Such a box is of no use, though the file is what it should be.
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


def warn_of_left_out(name, what, places):
    """Says once for the file `name` how many of `what` are left out, and the first."""
    if places:
        logging.warning(
            "%s: leaving out %d %s, such as %s", name, len(places), what, places[0]
        )
