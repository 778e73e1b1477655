"""Where a folder with JSON files as COCO's has annotations and images of a split."""

import pathlib
import re

from keras_hybrid.data.folders import visible

_JSON_FOLDERS = "", "annotations"
_IMAGE_FOLDERS = "images", "data"
# COCO has several files a split, the last ones without boxes of all people.
_FIRST, _LAST = "instances", ("person_keypoints", "captions", "panoptic", "stuff")
_WITHOUT_ANNOTATIONS = "image_info"


def annotations(path, split):
    """The JSON files of a split that are equally likely, sorted.

    Args:
        path: Of the data set's folder.
        split: `"train"`, `"test"` or `"val"`, which is part of the file's name, or begins
            a word in the name of its folder, as in "train2017" or "Validation".
    """
    folders = [path / name for name in _JSON_FOLDERS]
    found = [f for folder in folders for f in _json_files(folder) if _has(f, split)]
    if not found:
        found = [f for folder in _split_folders(path, split) for f in _json_files(folder)]
    best = min(map(_rank, found), default=None)
    return [file for file in found if _rank(file) == best]


def image_folders(path, split):
    """Where images of a split may be, the likeliest first."""
    own = _split_folders(path, split)
    within = [folder / name for folder in own for name in _IMAGE_FOLDERS]
    return [*own, *within, *(path / name for name in _IMAGE_FOLDERS), path]


def image_file(folders, name):
    """Path of an image in the first of `folders` that has it.

    A name may have folders, with slashes or backslashes, or be the path on another
    machine: then its last parts count, as many as lead to a file.

    Returns:
        A `pathlib.Path`; within the first folder, if there is no such file.
    """
    parts = pathlib.PurePosixPath(name.replace("\\", "/")).parts
    for tried in ((name,), *(parts[start:] for start in range(len(parts)))):
        for folder in folders:
            if (file := folder.joinpath(*tried)).is_file():
                return file
    return folders[0].joinpath(*parts)


def is_hidden(name):
    """Whether an image's name is that of a hidden file, as macOS leaves beside others."""
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
    """Whether its name has `split`; neither "latest" nor "trainval" is of the test."""
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
