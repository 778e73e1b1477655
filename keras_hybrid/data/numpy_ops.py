"""What `random_crops` does with arrays; `tensorflow_ops` does the same with tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

any, clip, concat, floor = np.any, np.clip, np.concatenate, np.floor
maximum, minimum, pad, prod = np.maximum, np.minimum, np.pad, np.prod
round, stack, where = np.round, np.stack, np.where


def cast(x: Any, dtype: str) -> np.ndarray:
    """Returns an array of another dtype."""
    return np.asarray(x).astype(dtype)


def shape(x: np.ndarray) -> np.ndarray:
    """Returns the shape, integers (rank,)."""
    return np.array(x.shape)


def cond(condition: bool, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """Returns `yes()` if the condition is true, else `no()`."""
    return yes() if condition else no()


def mirrored_if(mirrored: bool, pixels: np.ndarray) -> np.ndarray:
    """Flips pixels (H, W, ...) left to right if `mirrored` is true."""
    return pixels[:, ::-1] if mirrored else pixels


def resized(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resizes an image uint8 (H, W, 3) bilinearly with antialiasing by Pillow.

    Returns:
        float32 (height, width, 3), rounded to integers.
    """
    return _by_pillow(image, size, Image.Resampling.BILINEAR).astype("float32")


def resized_labels(labels: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resizes a label map uint8 (H, W) by nearest neighbour."""
    return _by_pillow(labels, size, Image.Resampling.NEAREST)


def _by_pillow(pixels, size, method):
    height, width = map(int, size)
    return np.asarray(Image.fromarray(pixels).resize((width, height), method))
