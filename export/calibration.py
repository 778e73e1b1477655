"""Calibration images: an export is checked on them, and they set the int8 ranges."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

# About as many as TensorFlow's guide to post-training quantization uses.
IMAGES = 100
# Width of 0..255 after scaling by 1/255, by 1/127.5 or by ImageNet's standard deviations;
# compared within 1 %.
_WIDTHS_OF_RAW_RGB = np.array([1, 2, 1 / 0.229, 1 / 0.224, 1 / 0.225])


def calibration_images(
    data: Iterable[Any] | Callable[[], Iterable[Any]], image: keras.KerasTensor
) -> np.ndarray:
    """Returns up to `IMAGES` images for the student as batches of one, (N, 1, H, W, C).

    Args:
        data: Images as the student takes them: an array (N, H, W, C); an iterable, such
            as a `tf.data.Dataset`, of images (H, W, C) or of batches; or a function that
            returns an iterator, like TensorFlow's `representative_dataset`. An element is
            an image or batch by itself, a tuple or list that starts with it, or a dict
            that has it under the name of the input, as `"image"` or as its only value.
        image: `KerasTensor` of the student's input, (B, H, W, C).

    Raises:
        ValueError: `data` has no images, or one of another shape, or with NaN or
            infinity.
    """
    elements = data() if callable(data) else data
    images = list(itertools.islice(_single(elements, image), IMAGES))
    if not images:
        raise ValueError(
            f"`calibration_data` must hold images. Received: calibration_data={data!r}"
        )
    for i, pixels in enumerate(images):
        if not np.isfinite(pixels).all():
            raise ValueError(
                "`calibration_data` must hold finite values. Received: NaN or infinity "
                f"in image {i}"
            )
    return np.stack(images)[:, None].astype(image.dtype)


def _single(elements, image):
    shape = tuple(image.shape[1:])
    for element in elements:
        images = np.asarray(_images_of(element, image.name))
        if images.shape[-3:] != shape or images.ndim not in (3, 4):
            raise ValueError(
                f"`calibration_data` must hold images {shape} or batches of them, as the "
                f"student takes them. Received: an element of shape {images.shape}"
            )
        yield from images.reshape(-1, *shape)


def _images_of(element, name):
    """The image or batch in an element that may have labels, names or both."""
    while True:
        if isinstance(element, tuple | list) and element:
            element = element[0]
        elif isinstance(element, Mapping):
            keys = [key for key in element if key in (name, "image") or len(element) == 1]
            if not keys:
                raise ValueError(
                    f"`calibration_data` must hold images under the name '{name}' or "
                    f"'image'. Received: a dict of {list(element)}"
                )
            element = element[keys[0]]
        else:
            return element


def with_full_range(images: np.ndarray, student: keras.Model) -> np.ndarray:
    """Returns the images that set the int8 ranges, (N, 1, H, W, C).

    They set the range of the input too. Only if they are raw RGB beyond doubt, an image
    with a black and a white pixel is added: the input then has a scale of 1, and the file
    takes the bytes of a camera unchanged, even if no calibration image is as dark or as
    bright.
    """
    if not _are_raw_rgb(images, student):
        return images
    images = np.clip(images, 0, 255)  # interpolation may exceed 0..255 by less than 0.5
    extremes = images[:1].copy()
    extremes[..., 0, 0, :], extremes[..., -1, -1, :] = 0, 255
    return np.concatenate([images, extremes])


def _are_raw_rgb(images, student):
    """Whether the images are raw RGB beyond doubt.

    They must round to 0..255. Then they either span this range, or meet two of three
    criteria: they are whole numbers, they have values of at least 128, and the student
    rescales 0..255 first. Depth in metres, 16-bit images, logarithms, and 0..1 or 0..2
    with rounding errors are rejected.
    """
    low, high = np.rint(images.min()), np.rint(images.max())
    if low < 0 or high > 255:
        return False
    if (low, high) == (0, 255):
        return True
    whole = (images == np.rint(images)).all()
    return bool(whole) + bool(high >= 128) + _scales_raw_rgb(student) >= 2


def _scales_raw_rgb(student):
    layers = student._flatten_layers()
    scales = (x.scale for x in layers if isinstance(x, keras.layers.Rescaling))
    widths = 255 * np.reshape(next(scales, 0.0), (-1, 1))
    return bool(np.isclose(widths, _WIDTHS_OF_RAW_RGB, rtol=0.01).any(axis=1).all())
