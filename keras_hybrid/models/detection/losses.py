"""The four losses of Faster R-CNN (Ren et al. 2015), means over the boxes drawn."""

from keras import ops

_BETA = 1 / 9


def objectness_loss(logits, labels, drawn):
    """Binary cross entropy of the anchors drawn in each image; 0 if none is.

    Args:
        logits: (B, N).
        labels: int (B, N); above 0 for objects.
        drawn: bool (B, N).

    Returns:
        float32 (B,).
    """
    is_object = ops.cast(labels > 0, "float32")
    loss = ops.binary_crossentropy(is_object, logits, from_logits=True)
    return _mean(loss, drawn, drawn)


def class_loss(logits, labels, drawn):
    """Cross entropy of the proposals drawn in each image; 0 if none is.

    Args:
        logits: (B, N, 1 + C).
        labels: int (B, N), 0 for background.
        drawn: bool (B, N).

    Returns:
        float32 (B,).
    """
    labels = ops.maximum(labels, 0)
    loss = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return _mean(loss, drawn, drawn)


def delta_loss(deltas, target_deltas, labels, drawn):
    """Smooth L1 of the objects' deltas, over the number of boxes drawn in the image.

    d ** 2 / (2 beta) below beta = 1/9, |d| - beta / 2 above (torchvision); the sum over
    the four deltas.

    Args:
        deltas, target_deltas: (B, N, 4).
        labels: int (B, N); above 0 for objects.
        drawn: bool (B, N).

    Returns:
        float32 (B,).
    """
    distance = ops.abs(deltas - target_deltas)
    loss = ops.where(distance < _BETA, distance**2 / (2 * _BETA), distance - _BETA / 2)
    return _mean(ops.sum(loss, axis=-1), drawn & (labels > 0), drawn)


def _mean(loss, counted, drawn):
    total = ops.sum(ops.where(counted, loss, 0.0), axis=1)
    return total / ops.maximum(ops.sum(ops.cast(drawn, "float32"), axis=1), 1.0)
