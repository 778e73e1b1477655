"""Which files of a folder are images."""

import os

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
