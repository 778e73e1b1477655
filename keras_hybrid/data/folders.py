"""Contents of a folder: its images, or a data set in a known layout."""

import os
import pathlib
import types
from collections.abc import Iterable, Sequence

from absl import logging

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
)
"""Suffixes of the images that `decoding` reads."""


def visible(folder: str | os.PathLike) -> list[str]:
    """Sorted names in `folder` without hidden ones, such as the `._` files of macOS."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def images_in(
    folders: Iterable[str | os.PathLike], suffixes: tuple[str, ...] = SUFFIXES
) -> list[list[str]]:
    """Lists the images of each folder, as sorted names.

    Hidden files are left out silently. If anything else is left out, a single warning
    names one file of each suffix, up to five.
    """
    found: list[list[str]] = []
    others: dict[str, str] = {}
    for folder in folders:
        names = visible(folder)
        found.append([name for name in names if name.lower().endswith(suffixes)])
        for name in set(names) - set(found[-1]):
            others.setdefault(os.path.splitext(name)[1], os.path.join(folder, name))
    if others:
        logging.warning(
            "Leaving out files without an image suffix (%s), such as %s",
            " ".join(suffixes),
            ", ".join(sorted(others.values())[:5]),
        )
    return found


def find_layout(
    data_dir: str | os.PathLike,
    layouts: Sequence[types.ModuleType],
    what: str = "a folder",
) -> tuple[types.ModuleType, pathlib.Path]:
    """Finds the layout of a data set.

    Args:
        data_dir: Path of the data set.
        layouts: Modules with `LAYOUT`, a description, and `is_at(path)`.
        what: Kind of path that these layouts need, for the error message.

    Returns:
        (the module of the layout, `data_dir` as a `pathlib.Path`).

    Raises:
        FileNotFoundError: If no layout fits; the message describes all of them.
    """
    path = pathlib.Path(data_dir).expanduser()
    for layout in layouts:
        if layout.is_at(path):
            return layout, path
    expected = "; or ".join(layout.LAYOUT for layout in layouts)
    if not path.is_dir():
        raise FileNotFoundError(
            f"`data_dir` must be {what}. Received: data_dir={data_dir}. "
            f"Expected {expected}"
        )
    raise FileNotFoundError(
        f"`data_dir` must have a known layout. Received: data_dir={data_dir} with "
        f"{listed(visible(path))}. Expected {expected}"
    )


def listed(names: Sequence[str]) -> str:
    """Lists the first five of `names` and the number of others, for a message."""
    shown = ", ".join(map(repr, names[:5])) or "nothing"
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
