"""Does the written file compute what Keras computes?"""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_hybrid.export.student import forward

IMAGES = 4
# Root mean square of the error, of that of an output. A MobileNet trained on CIFAR-10 was
# off by 6e-7, 1e-4, 0.012 and 0.026 on 600 test images; a conversion gone wrong, by 0.5.
TOLERANCE = {None: 1e-4, "float16": 0.01, "dynamic": 0.1, "int8": 0.2}


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How close two runs are.

    Attributes:
        max_abs_error: Largest absolute difference over all outputs, in their unit.
        scaled_error: Likewise, of outputs beyond 1 as a share of their largest.
        same_argmax: Share (0 to 1) of equal argmax over the last axis.
    """

    max_abs_error: float
    scaled_error: float
    same_argmax: float


def sample_images(shape, dtype, seed=0):
    """Returns `IMAGES` seeded batches of raw RGB, `shape` each, whole numbers 0 to 255.

    They consist of 8x8 blocks: pixel noise is the same grey after some pooling, and a
    network's outputs for it hardly differ.
    """
    batch, height, width, channels = shape
    blocks = (IMAGES, batch, -(-height // 8), -(-width // 8), channels)
    images = np.random.default_rng(seed).integers(0, 256, blocks)
    images = images.repeat(8, axis=2).repeat(8, axis=3)
    return images[:, :, :height, :width].astype(dtype)


def require_agreement(
    student, file_forward, images, tolerance=TOLERANCE[None], steps=None
):
    """Runs the student and the written file on every batch and compares.

    Args:
        student: The Keras model.
        file_forward: Maps a batch to a dict of arrays, by running the file.
        images: Batches, (N, B, H, W, C).
        tolerance: Largest error of an output, as its root mean square over that of
            what Keras gives.
        steps: Output -> difference of neighbouring values, where the file has no finer
            ones; that much is no error.

    Returns:
        An `Agreement`.

    Raises:
        ValueError: Keras itself gives NaN or infinity.
        RuntimeError: The file gives other outputs, or one differs by more.
    """
    # Traced: run eagerly, grouped convolutions make Keras trace, and warn, once a layer.
    keras_forward = tf.function(lambda batch: forward(student, batch), autograph=False)
    expected = _run(keras_forward, images)
    received = _run(file_forward, images)
    if _shapes(expected) != _shapes(received):
        raise RuntimeError(
            "The exported file must have the model's outputs. "
            f"Received: {_shapes(received)} instead of {_shapes(expected)}"
        )
    errors = [
        _error(name, y, received[name], tolerance, (steps or {}).get(name, 0.0))
        for name, y in expected.items()
    ]
    same = [
        (expected[name].argmax(-1) == received[name].argmax(-1)).ravel()
        for name in expected
        if expected[name].ndim > 2 and expected[name].shape[-1] > 1
    ]
    same_argmax = float(np.concatenate(same).mean()) if same else 1.0
    return Agreement(*map(max, zip(*errors, strict=True)), same_argmax)


def _run(forward, images):
    outputs = [forward(batch) for batch in images]
    return {
        name: np.stack([np.asarray(output[name], "float64") for output in outputs])
        for name in outputs[0]
    }


def _shapes(outputs):
    return {name: value.shape[1:] for name, value in outputs.items()}


def _error(name, expected, received, tolerance, step):
    """The largest difference of an output: absolute, and scaled by values beyond 1."""
    if not np.isfinite(expected).all():
        raise ValueError(
            "`model` must give finite outputs on its images. "
            f"Received: NaN or infinity in output '{name}'"
        )
    error, size = _root_mean_square(expected - received), _root_mean_square(expected)
    if not error <= tolerance * size + step:  # also where `error` is NaN
        raise RuntimeError(
            "The exported file must reproduce the model. Received: output "
            f"'{name}' differs by {error:.3g}, itself being {size:.3g} (root mean square)"
        )
    largest = float(np.abs(expected - received).max())
    return largest, largest / max(1.0, float(np.abs(expected).max()))


def _root_mean_square(values):
    return np.sqrt(np.mean(values**2))
