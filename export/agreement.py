"""Checks that a written file computes what Keras computes."""

import dataclasses
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_hybrid.export import detections
from keras_hybrid.export.student import forward
from keras_hybrid.training.types import Tensor

IMAGES = 4
# Root mean square of the error, relative to that of the output. A MobileNet trained on
# CIFAR-10 was off by 6e-7, 1e-4, 0.012 and 0.026 on 600 test images; a broken conversion,
# by 0.5.
_ERROR = {None: 1e-4, "float16": 0.01, "dynamic": 0.1, "int8": 0.2}
# Share of values of an integer or boolean output, such as a label map, that may differ.
# A DeepLab v2 trained on CamVid for 910 steps differed in 0, 1e-4, 7e-3 and 0.016 of the
# pixels.
_DIFFERENCES = {None: 1e-3, "float16": 0.01, "dynamic": 0.1, "int8": 0.2}
_LABELS = "biu"  # kinds of NumPy's dtypes: booleans and integers
# For a detector: largest error of a box in pixels, largest error of a score, and largest
# share of all scores that belongs to detections without a counterpart.
_DETECTIONS = {
    None: (0.5, 1e-3, 0.01),
    "float16": (1.0, 0.01, 0.02),
    "dynamic": (16.0, 0.2, 0.1),
}
# Relative changes of the images that are as small as rounding.
_NUDGES = 1e-6, -1e-6, 1e-5, -1e-5


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How closely a file reproduces the Keras model.

    Attributes:
        max_abs_error: Largest absolute difference over all float outputs, in their unit.
        scaled_error: Likewise, but relative to an output's largest absolute value where
            that is above 1.
        same_argmax: Share (0 to 1) of positions with the same argmax over the last axis,
            or with the same value in an integer or boolean output. For a detector, the
            share of detections found by both, weighted by score.
    """

    max_abs_error: float
    scaled_error: float
    same_argmax: float


def sample_images(
    shape: tuple[int, int, int, int], dtype: str, seed: int = 0
) -> np.ndarray:
    """Returns `IMAGES` seeded batches of raw RGB, `shape` each, whole numbers 0 to 255.

    They consist of 8x8 blocks: pooling turns independent pixels into a uniform grey, for
    which a network's outputs hardly differ.
    """
    batch, height, width, channels = shape
    blocks = (IMAGES, batch, -(-height // 8), -(-width // 8), channels)
    images = np.random.default_rng(seed).integers(0, 256, blocks)
    images = images.repeat(8, axis=2).repeat(8, axis=3)
    return images[:, :, :height, :width].astype(dtype)


def require_agreement(
    student: keras.Model,
    file_forward: Callable[[np.ndarray], Mapping[str, Tensor]],
    images: np.ndarray,
    quantization: str | None = None,
    steps: Mapping[str, float] | None = None,
) -> Agreement:
    """Runs the student and the written file on every batch and compares their outputs.

    Args:
        student: The Keras model.
        file_forward: Function from a batch to a dict of outputs that runs the file.
        images: Batches as the student takes them, (N, B, H, W, C). What the file's input
            cannot represent counts as an error of the file.
        quantization: Quantization of the file, which sets the tolerance: the root mean
            square of the error, relative to that of Keras's output.
        steps: Quantization step of each output, by name; an error of one step is
            tolerated in addition.

    Returns:
        An `Agreement`.

    Raises:
        ValueError: Keras's own outputs contain NaN or infinity.
        RuntimeError: The file has other outputs, or the error of one is too large.
    """
    # Traced: in eager mode Keras traces each grouped convolution by itself, and warns.
    keras_forward = tf.function(lambda batch: forward(student, batch), autograph=False)
    expected = _run(keras_forward, images)
    received = _run(file_forward, images)
    if _shapes(expected) != _shapes(received):
        raise RuntimeError(
            "The exported file must have the model's outputs. "
            f"Received: {_shapes(received)} instead of {_shapes(expected)}"
        )
    if set(expected) == detections.NAMES:
        nudged = (
            _run(keras_forward, (images * (1 + by)).astype(images.dtype))
            for by in _NUDGES
        )
        return _require_detections(expected, received, _DETECTIONS[quantization], nudged)
    errors, same = [], []
    for name, y in expected.items():
        if y.dtype.kind in _LABELS:
            equal = y == received[name]
            _require_labels(name, equal, _DIFFERENCES[quantization])
            same.append(equal.ravel())
            continue
        step = (steps or {}).get(name, 0.0)
        errors.append(_error(name, y, received[name], _ERROR[quantization], step))
        if y.ndim > 2 and y.shape[-1] > 1:
            same.append((y.argmax(-1) == received[name].argmax(-1)).ravel())
    same_argmax = float(np.concatenate(same).mean()) if same else 1.0
    max_abs_error, scaled_error = map(max, zip((0.0, 0.0), *errors, strict=True))
    return Agreement(max_abs_error, scaled_error, same_argmax)


def _run(forward, images):
    outputs = [forward(batch) for batch in images]
    return {name: np.stack([_array(o[name]) for o in outputs]) for name in outputs[0]}


def _array(output):
    """An output as an array; floats become float64."""
    output = np.asarray(output)
    return output if output.dtype.kind in _LABELS else output.astype("float64")


def _require_labels(name, equal, tolerance):
    different = 1 - equal.mean()
    if different > tolerance:
        raise RuntimeError(
            "The exported file must reproduce the model. Received: output "
            f"'{name}' differs in {different:.1%} of its values"
        )


def _require_detections(expected, received, tolerances, nudged):
    """The `Agreement` of two detectors; `same_argmax` is the share found by both.

    Of overlapping boxes with nearly the same score, rounding decides which one is kept. A
    detector that has hardly learned has many, so that it finds other boxes on `nudged`
    images, too. A file may then differ in twice as many of them in addition, but half of
    all scores must belong to what both find.
    """
    errors, largest = _compare(expected, received, tolerances)
    boxes, scores, unmatched, different = errors
    if not np.all(errors[:3] <= tolerances):  # also where one is NaN
        own = [_compare(expected, other, tolerances)[0] for other in nudged]
        *_, own_unmatched, own_different = np.max(own, axis=0)
        may_lack, may_differ = (
            tolerances[2] + 2 * share for share in (own_unmatched, own_different)
        )
        is_close = unmatched <= min(may_lack, 0.5) and different <= may_differ
        if not (own_different > 0 and is_close):
            raise RuntimeError(
                "The exported file must find what the model finds. Received: boxes up to "
                f"{boxes:.3g} pixels and scores up to {scores:.3g} apart, and "
                f"{unmatched:.1%} of all scores belong to what only one of the two finds"
            )
    worst = float(max(boxes, scores))
    return Agreement(worst, worst / largest, float(1 - unmatched))


def _compare(expected, received, tolerances):
    """Compares the detections of two runs.

    Returns:
        (errors, largest): an array of the largest errors of a box and of a score, the
        share of all scores without a counterpart, and the share of those without one
        within the tolerances; and the largest value.
    """
    pairs, matched = detections.pair_up(expected, received)
    distances = np.abs(pairs[:, 0] - pairs[:, 1])
    boxes, scores = distances[:, :4].max(initial=0), distances[:, 4].max(initial=0)
    pixels, score, _ = tolerances
    same = np.all(distances <= [pixels] * 4 + [score], axis=1)
    weights = pairs[..., 4].sum(axis=1)
    share = matched * (weights[same].sum() / weights.sum() if len(pairs) else 1)
    errors = np.array([boxes, scores, 1 - matched, 1 - share])
    return errors, float(np.abs(pairs[:, 0]).max(initial=1))


def _shapes(outputs):
    return {name: value.shape[1:] for name, value in outputs.items()}


def _error(name, expected, received, tolerance, step):
    """The largest difference of an output: absolute, and relative to values above 1."""
    if not np.isfinite(expected).all():
        raise ValueError(
            "`model` must give finite outputs on its images. "
            f"Received: NaN or infinity in output '{name}'"
        )
    error, size = _root_mean_square(expected - received), _root_mean_square(expected)
    if not error <= tolerance * size + step:  # also where `error` is NaN
        raise RuntimeError(
            f"The exported file must reproduce the model. Received: output '{name}' "
            f"differs by {error:.3g} from values of {size:.3g} (root mean square)"
        )
    largest = float(np.abs(expected - received).max())
    return largest, largest / max(1.0, float(np.abs(expected).max()))


def _root_mean_square(values):
    return np.sqrt(np.mean(values**2))
