"""Whether a classifier ends in logits, a softmax or sigmoids, seen from its values."""

import keras
import numpy as np
from keras import ops

from keras_hybrid.training.types import Tensor

LOGITS, SOFTMAX, SIGMOID = "logits", "softmax", "sigmoid"


def output_kind(
    model: keras.Model, argument: str, images: Tensor
) -> tuple[str, tuple[int | None, ...]]:
    """Finds out what a model ends in, and the shape of its outputs.

    Values in 0..1 that sum to 1 over the last axis come from a softmax, other values in
    0..1 from independent sigmoids, and all others are logits. An untrained head with few
    classes or zero weights may have logits in that range by chance, so the model is also
    run with random values for its last kernel. No weight or other state changes.

    Args:
        model: A `keras.Model` with one output (B, ..., C).
        argument: Name of the model's argument, for error messages.
        images: Batch (B, H, W, C) that the model takes.

    Returns:
        `LOGITS`, `SOFTMAX` or `SIGMOID`; and the shape (None, ..., C).

    Raises:
        ValueError: The model has several outputs, or does not run on the images.
    """
    kernels = [w for w in model.weights if len(w.shape) >= 2][-1:]
    noise = [10 * np.random.default_rng(1).normal(size=w.shape) for w in kernels]
    states = [
        [(w, ops.cast(sign * x, w.dtype)) for w, x in zip(kernels, noise, strict=True)]
        for sign in (1, -1)
    ]
    outputs = [_run(model, argument, images, state) for state in ([], *states)]
    return _kind(map(_rows, outputs)), (None, *outputs[0].shape[1:])


def _run(model, argument, images, state):
    try:
        with keras.StatelessScope(state):
            outputs = keras.tree.flatten(model(images, training=False))
    except Exception as error:  # whatever a layer raises
        raise ValueError(
            f"`{argument}` must run on the student's images, of shape "
            f"{tuple(images.shape)}, or `teacher_preprocessing` must make them fit. "
            f"Received: {argument}={model.name!r}, which fails with: "
            f"{' '.join(str(error).split())}"
        ) from error
    if len(outputs) != 1 or len(outputs[0].shape) < 2:
        raise ValueError(
            "KD compares outputs, and must have networks of one output "
            "(B, ..., classes), without a `.head` that makes several. Received: "
            f"{argument}={model.name!r} with outputs of shapes "
            f"{[tuple(x.shape) for x in outputs]}"
        )
    return outputs[0]


def _rows(outputs):
    """Outputs as float32 (N, C), without rows that overflowed in float16."""
    rows = ops.convert_to_numpy(ops.cast(outputs, "float32"))
    rows = rows.reshape(-1, rows.shape[-1])
    return rows[np.isfinite(rows).all(axis=-1)]


def _kind(tables):
    """The kind that fits all tables that have rows."""
    kinds = set()
    for rows in tables:
        if rows.size and (rows.min() < 0 or rows.max() > 1 + 1e-3):
            return LOGITS
        if rows.size:
            # Float16 rounds each probability, of which there may be a thousand.
            sums_to_1 = np.allclose(rows.sum(axis=-1), 1, atol=1e-2)
            kinds.add(SOFTMAX if sums_to_1 else SIGMOID)
    return kinds.pop() if len(kinds) == 1 else SIGMOID if kinds else LOGITS
