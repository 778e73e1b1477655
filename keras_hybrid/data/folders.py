"""What is in a folder: its images, or a data set of a known layout."""

import os
import pathlib

from absl import logging

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
)
"""Of images that `decoding` reads."""


def visible(folder):
    """Sorted names in `folder`, without ._files of macOS and other hidden ones."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def images_in(folders, suffixes=SUFFIXES):
    """The images of each folder: a list of lists of sorted names.

    Hidden files are left out. For anything else that is left out there is one warning,
    which names a file of each suffix.
    """
    found, others = [], {}
    for folder in folders:
        names = visible(folder)
        found.append([name for name in names if name.lower().endswith(suffixes)])
        for name in set(names) - set(found[-1]):
            others.setdefault(os.path.splitext(name)[1], os.path.join(folder, name))
    if others:
        logging.warning(
            "Leaving out what is no image of the suffixes %s, such as %s",
            " ".join(suffixes),
            ", ".join(sorted(others.values())[:5]),
        )
    return found


def find_layout(data_dir, layouts, what="a folder"):
    """Which of several layouts the data have.

    Args:
        data_dir: Path.
        layouts: Modules with `LAYOUT`, a description, and `is_at(path)`.
        what: What a data set of these layouts is, for the message.

    Returns:
        (the module of the layout, `data_dir` as a `pathlib.Path`).

    Raises:
        FileNotFoundError: None of them; the message describes them all.
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


def listed(names):
    """A few of many names, for a message."""
    shown = ", ".join(map(repr, names[:5])) or "nothing"
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
