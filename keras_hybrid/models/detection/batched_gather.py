"""Gather rows of each image by index."""

from keras import ops

from keras_hybrid.training.types import Tensor


def batched_gather(values: Tensor, indices: Tensor) -> Tensor:
    """Gathers rows of each image by index.

    It is one plain gather, which LiteRT supports, unlike that of `ops.take_along_axis`.

    >>> rows = batched_gather(np.array([[1.0, 2], [3, 4]]), np.array([[1, 1], [0, 1]]))
    >>> np.asarray(rows).tolist()
    [[2.0, 2.0], [3.0, 4.0]]

    Args:
        values: Rows of each image, (B, N) or (B, N, K).
        indices: Indices of rows, int32 (B, M).

    Returns:
        (B, M) or (B, M, K).
    """
    images, count = ops.shape(values)[:2]
    start = ops.expand_dims(ops.arange(images) * count, -1)
    flat = ops.reshape(values, (-1, *values.shape[2:]))
    return ops.take(flat, ops.cast(indices, "int32") + start, axis=0)
