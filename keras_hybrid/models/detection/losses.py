"""The four losses of Faster R-CNN (Ren et al. 2015), means over the sampled boxes."""

from keras import ops

from keras_hybrid.training.types import Tensor

_BETA = 1 / 9


def objectness_loss(logits: Tensor, labels: Tensor, sampled: Tensor) -> Tensor:
    """Computes each image's binary cross entropy over the sampled anchors; 0 without any.

    Args:
        logits: Objectness (B, N).
        labels: int (B, N), above 0 for objects.
        sampled: Whether an anchor is sampled, bool (B, N).

    Returns:
        float32 (B,).
    """
    is_object = ops.cast(labels > 0, "float32")
    loss = ops.binary_crossentropy(is_object, logits, from_logits=True)
    return _mean(loss, sampled, sampled)


def class_loss(logits: Tensor, labels: Tensor, sampled: Tensor) -> Tensor:
    """Computes each image's cross entropy over the sampled proposals; 0 without any.

    Args:
        logits: Scores (B, N, 1 + C), background first.
        labels: int (B, N), 0 for background.
        sampled: Whether a proposal is sampled, bool (B, N).

    Returns:
        float32 (B,).
    """
    labels = ops.maximum(labels, 0)
    loss = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return _mean(loss, sampled, sampled)


def delta_loss(
    deltas: Tensor, target_deltas: Tensor, labels: Tensor, sampled: Tensor
) -> Tensor:
    """Computes smooth L1 of the objects' deltas over the image's number of sampled boxes.

    It is d ** 2 / (2 beta) below beta = 1/9 and |d| - beta / 2 above (torchvision),
    summed over the four deltas.

    Args:
        deltas, target_deltas: Predicted and wanted deltas (B, N, 4).
        labels: int (B, N), above 0 for objects.
        sampled: Whether a box is sampled, bool (B, N).

    Returns:
        float32 (B,).
    """
    distance = ops.abs(deltas - target_deltas)
    loss = ops.where(distance < _BETA, distance**2 / (2 * _BETA), distance - _BETA / 2)
    return _mean(ops.sum(loss, axis=-1), sampled & (labels > 0), sampled)


def _mean(loss, counted, sampled):
    total = ops.sum(ops.where(counted, loss, 0.0), axis=1)
    return total / ops.maximum(ops.sum(ops.cast(sampled, "float32"), axis=1), 1.0)
