"""Photographs of a folder, as images for a student of raw RGB, RGBA or grey."""

import os
import pathlib
import random

import numpy as np
from absl import logging
from PIL import Image, ImageOps

from keras_hybrid.data import decoding
from keras_hybrid.data.folders import SUFFIXES

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def photographs(
    folder: str | os.PathLike, shape: tuple[int, int, int], count: int
) -> np.ndarray:
    """Returns up to `count` photographs, sampled with a seed, cropped and resized.

    They are turned upright by their EXIF orientation. Files that cannot be read are
    skipped with a warning.

    Args:
        folder: Folder with photographs in it or in its subfolders. Hidden files and
            folders are left out, such as the `._` files of macOS.
        shape: (H, W, C) of the student's images; one channel is grey, four are RGBA.
        count: Largest number of photographs.

    Returns:
        uint8 (N, H, W, C).

    Raises:
        ValueError: The folder does not exist, no photograph in it can be read, or the
            student's images have another number of channels.
    """
    if shape[-1] not in _MODES:
        raise ValueError(
            "MODEL must take images of 1, 3 or 4 channels with --calibration_data. "
            f"Received: input shape {tuple(shape)}"
        )
    files = _files(pathlib.Path(folder))
    random.Random(0).shuffle(files)
    images: list[np.ndarray] = []
    reasons: list[str] = []
    for file in files:
        if len(images) == count:
            break
        try:
            images.append(_read(file, shape))
        except (OSError, ValueError) as error:
            reasons.append(f"{file}: {' '.join(str(error).split())}")
            logging.warning("Skipping image %s", reasons[-1])
    if not images:
        nothing = f"no {', '.join(SUFFIXES)} file in it"
        found = [*reasons, nothing if os.path.isdir(folder) else "not a folder"][0]
        raise ValueError(
            "--calibration_data must be a folder with photographs in it or in its "
            f"subfolders. Received: --calibration_data={folder}, {found}"
        )
    return np.stack(images)


def _files(folder):
    files, visited = [], set()
    for directory, subfolders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in visited:  # by another link, which may form a loop
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        files += [pathlib.Path(directory, n) for n in names if not n.startswith(".")]
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES)


def _read(file, shape):
    height, width, channels = shape
    image = decoding.opened(file.read_bytes(), "image")
    if channels == 4 and image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
    else:
        pixels = decoding.rgb(image)
    upright = Image.fromarray(decoding.turned(pixels, decoding.orientation_of(image)))
    fitted = ImageOps.fit(
        upright.convert(_MODES[channels]), (width, height), Image.Resampling.BILINEAR
    )
    return np.asarray(fitted).reshape(shape)
