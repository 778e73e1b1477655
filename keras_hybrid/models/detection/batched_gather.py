"""Of each image some of its rows, by index."""

from keras import ops


def batched_gather(values, indices):
    """One gather, which LiteRT runs as it is, unlike that of `ops.take_along_axis`.

    >>> rows = batched_gather(np.array([[1.0, 2], [3, 4]]), np.array([[1, 1], [0, 1]]))
    >>> np.asarray(rows).tolist()
    [[2.0, 2.0], [3.0, 4.0]]

    Args:
        values: (B, N) or (B, N, K).
        indices: int32 (B, M).

    Returns:
        (B, M) or (B, M, K).
    """
    images, count = ops.shape(values)[:2]
    start = ops.expand_dims(ops.arange(images) * count, -1)
    flat = ops.reshape(values, (-1, *values.shape[2:]))
    return ops.take(flat, ops.cast(indices, "int32") + start, axis=0)
