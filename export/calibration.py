"""The images that an export is measured on, and whose values set the int8 ranges."""

import itertools

import numpy as np

# TensorFlow's guide to post-training quantization takes about as many.
IMAGES = 100


def calibration_images(data, shape, dtype):
    """Returns images for the student one at a time, (N, 1, H, W, C), N at most `IMAGES`.

    Args:
        data: Images as the student takes them: an array (N, H, W, C), or an iterable
            such as a `tf.data.Dataset` of images (H, W, C) or of batches, alone or first
            in a tuple with their labels.
        shape: (H, W, C).
        dtype: That of the student's input.

    Raises:
        ValueError: There are no images in it, or of another shape.
    """
    images = list(itertools.islice(_single(data, tuple(shape)), IMAGES))
    if not images:
        raise ValueError(
            f"`calibration_data` must hold images. Received: calibration_data={data!r}"
        )
    return np.stack(images)[:, None].astype(dtype)


def _single(data, shape):
    for element in data:
        images = np.asarray(element[0] if isinstance(element, tuple | list) else element)
        if images.shape[-3:] != shape or images.ndim not in (3, 4):
            raise ValueError(
                f"`calibration_data` must hold images {shape} or batches of them, as the "
                f"student takes them. Received: an element of shape {images.shape}"
            )
        yield from images.reshape(-1, *shape)
