"""Synthetic photographs in the layouts that the recipes read, for benchmarks."""

import json
import pathlib

import numpy as np
from PIL import Image

_OCTAVES = (96, 70), (24, 35), (6, 14), (1, 5)  # (wavelength in pixels, contrast)
_PEOPLE = 4  # per image


def photograph(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Returns noise, uint8 (height, width, 3), that compresses like a photograph."""
    image = np.full((height, width, 3), 128, "float32")
    for wave, contrast in _OCTAVES:
        image += _waves(rng, height, width, wave, 3) * contrast
    return np.clip(image, 0, 255).astype("uint8")


def regions(
    rng: np.random.Generator, height: int, width: int, classes: int
) -> np.ndarray:
    """Returns a label map of smooth regions, uint8 (height, width)."""
    return np.argmax(_waves(rng, height, width, 96, classes), axis=-1).astype("uint8")


def class_folders(
    folder: pathlib.Path, count: int, size: tuple[int, int], rng: np.random.Generator
) -> None:
    """Writes train/CLASS/*.jpg of two classes, and one test image of each."""
    for split, of_split in (("train", count), ("val", 2)):
        for i in range(of_split):
            path = folder / split / "ab"[i % 2] / f"{i:04}.jpg"
            _save(path, photograph(rng, *size))


def label_maps(
    folder: pathlib.Path, count: int, size: tuple[int, int], rng: np.random.Generator
) -> None:
    """Writes train/*.jpg with trainannot/*.png, and one test pair."""
    for split, of_split in (("train", count), ("test", 1)):
        for i in range(of_split):
            _save(folder / split / f"{i:04}.jpg", photograph(rng, *size))
            _save(folder / f"{split}annot" / f"{i:04}.png", regions(rng, *size, 11))


def people(
    folder: pathlib.Path, count: int, size: tuple[int, int], rng: np.random.Generator
) -> None:
    """Writes train/*.jpg and people_train.json with boxes, and one test image."""
    for split, of_split in (("train", count), ("test", 1)):
        images, annotations = [], []
        for i in range(of_split):
            name = f"{i:04}.jpg"
            _save(folder / split / name, photograph(rng, *size))
            images.append(
                {"id": i, "file_name": name, "height": size[0], "width": size[1]}
            )
            for _ in range(_PEOPLE):
                height = int(rng.integers(size[0] // 8, size[0] // 2))
                x, y = (int(rng.integers(0, n - height)) for n in (size[1], size[0]))
                box = [x, y, height // 2, height]
                annotations.append({"image_id": i, "category_id": 1, "bbox": box})
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "person"}],
        }
        (folder / f"people_{split}.json").write_text(json.dumps(content))


def _waves(rng, height, width, wave, channels):
    """Returns smoothed Gaussian noise, float32 (height, width, channels)."""
    small = rng.normal(0, 1, (height // wave + 2, width // wave + 2, channels))
    planes = np.moveaxis(small.astype("float32"), -1, 0)
    size, how = (width, height), Image.Resampling.BICUBIC
    smooth = [np.asarray(Image.fromarray(plane).resize(size, how)) for plane in planes]
    return np.stack(smooth, axis=-1)


def _save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {"quality": 90} if path.suffix == ".jpg" else {}
    Image.fromarray(pixels).save(path, **settings)
