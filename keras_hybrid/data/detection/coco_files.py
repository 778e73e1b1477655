"""Finds the annotations and images of a split in a folder of COCO-style JSON files."""

import pathlib
import re
from collections.abc import Sequence

from keras_hybrid.data.folders import visible

_JSON_FOLDERS = "", "annotations"
_IMAGE_FOLDERS = "images", "data"
# COCO has several files per split; those ranked last lack the boxes of some people.
_FIRST, _LAST = "instances", ("person_keypoints", "captions", "panoptic", "stuff")
_WITHOUT_ANNOTATIONS = "image_info"


def annotations(path: pathlib.Path, split: str) -> list[pathlib.Path]:
    """The most likely annotation files of a split, sorted; several if equally likely.

    Args:
        path: Folder of the data set.
        split: `"train"`, `"test"` or `"val"`. It is part of the name of the file, or
            begins a word in the name of its folder, as in "train2017" or "Validation".
    """
    folders = [path / name for name in _JSON_FOLDERS]
    found = [f for folder in folders for f in _json_files(folder) if _has(f, split)]
    if not found:
        found = [f for folder in _split_folders(path, split) for f in _json_files(folder)]
    best = min(map(_rank, found), default=None)
    return [file for file in found if _rank(file) == best]


def image_folders(path: pathlib.Path, split: str) -> list[pathlib.Path]:
    """Folders that may hold the images of a split, the most likely first."""
    own = _split_folders(path, split)
    within = [folder / name for folder in own for name in _IMAGE_FOLDERS]
    return [*own, *within, *(path / name for name in _IMAGE_FOLDERS), path]


def image_file(folders: Sequence[pathlib.Path], name: str) -> pathlib.Path:
    """Finds an image in the first of `folders` that has it.

    A name may contain folders, separated by slashes or backslashes, or be a path on
    another machine; leading parts are dropped until the rest leads to a file.

    Returns:
        Path of the image; a path in the first folder if there is no such file.
    """
    parts = pathlib.PurePosixPath(name.replace("\\", "/")).parts
    for tried in ((name,), *(parts[start:] for start in range(len(parts)))):
        for folder in folders:
            if (file := folder.joinpath(*tried)).is_file():
                return file
    return folders[0].joinpath(*parts)


def is_hidden(name: str) -> bool:
    """Whether an image is a hidden file, such as those that macOS leaves beside files."""
    return pathlib.PurePosixPath(name.replace("\\", "/")).name.startswith(".")


def _split_folders(path, split):
    begins = re.compile(rf"(?<![a-z]){split}")
    return [
        folder
        for parent in ("", "annotations", *_IMAGE_FOLDERS)
        for folder in _visible(path / parent)
        if _has(folder, split) and begins.search(folder.name.lower()) and folder.is_dir()
    ]


def _has(file, split):
    """Whether a name contains `split`; "latest" is not test, and "trainval" not val."""
    name = file.name.lower().replace("latest", "")
    return split in name and (split == "train" or "train" not in name)


def _json_files(folder):
    return [
        file
        for file in _visible(folder)
        if file.suffix.lower() == ".json"
        and not file.name.lower().startswith(_WITHOUT_ANNOTATIONS)
        and file.is_file()
    ]


def _rank(file):
    name = file.name.lower()
    return (_FIRST not in name) + any(last in name for last in _LAST)


def _visible(folder):
    return [folder / name for name in visible(folder)] if folder.is_dir() else []
