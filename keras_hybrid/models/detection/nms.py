"""Non-maximum suppression with fixed shapes, which Keras lacks."""

import keras
from keras import ops

from keras_hybrid.training.types import Tensor

# In pixels, as in torchvision. LiteRT would select a box without an area again and again
# until it has `count`, since such a box does not overlap itself.
_SMALLEST_SIDE = 1e-3


def non_max_suppression(
    boxes: Tensor, valid: Tensor, count: int, iou_threshold: float
) -> tuple[Tensor, Tensor]:
    """Selects each image's best boxes and drops those that overlap a better one.

    Args:
        boxes: float32 (B, N, 4), [x1, y1, x2, y2] in pixels, best first.
        valid: bool (B, N), which of them are boxes at all. Those without an area never
            count.
        count: Largest number of boxes to keep.
        iou_threshold: IoU with a better box above which a box is dropped.

    Returns:
        (indices, kept): int32 (B, count), best first, and bool (B, count), which of the
        indices are of kept boxes.
    """
    # Ranks as scores, since LiteRT orders equal scores arbitrarily, unlike TensorFlow.
    ranks = ops.arange(boxes.shape[1], 0, -1, dtype="float32")
    sides = boxes[..., 2:] - boxes[..., :2]
    valid &= ops.min(sides, axis=-1) >= _SMALLEST_SIDE
    if keras.backend.backend() != "tensorflow":
        keeps = _fixed_point(ops.stop_gradient(boxes), valid, iou_threshold)
        most = min(count, boxes.shape[1])
        best, indices = ops.top_k(ops.where(keeps, ranks, 0.0), most)
        indices = ops.where(best > 0, ops.cast(indices, "int32"), 0)
        padding = (0, 0), (0, count - most)
        return ops.pad(indices, padding), ops.pad(best > 0, padding)

    import tensorflow as tf

    scores = ops.where(valid, ranks, 0.0)

    def of_image(image):
        # The raw op: `tf.image.non_max_suppression_padded` is a loop of hundreds of ops,
        # which take a second to trace and most of a small training step to run.
        indices, found = tf.raw_ops.NonMaxSuppressionV4(
            boxes=image[0],
            scores=image[1],
            max_output_size=count,
            iou_threshold=iou_threshold,
            score_threshold=0.0,
            pad_to_max_output_size=True,
        )
        kept = tf.range(count) < found
        # `tf.where` is also needed because LiteRT's converter would merge a reshape right
        # after the operator into it, and the output's shape would differ from the file's.
        return tf.where(kept, indices, 0), kept

    if boxes.shape[0] == 1:  # Without a loop this converts to one LiteRT operator.
        indices, kept = of_image((boxes[0], scores[0]))
        return ops.reshape(indices, (1, count)), ops.reshape(kept, (1, count))
    types = tf.TensorSpec((count,), "int32"), tf.TensorSpec((count,), "bool")
    return tf.map_fn(of_image, (boxes, scores), fn_output_signature=types)


def _fixed_point(boxes, valid, iou_threshold):
    """Which boxes are kept, bool (B, N), on backends without an operator for NMS.

    A box is kept if no better box that is kept overlaps it. Each pass applies this rule
    to all boxes at once and settles at least one more box of every chain of overlaps;
    once nothing changes, all are settled.
    """
    iou = keras.utils.bounding_boxes.compute_iou(boxes, boxes, "xyxy")
    is_better = ops.tril(ops.ones((boxes.shape[1],) * 2, dtype="bool"), k=-1)
    suppresses = (iou > iou_threshold) & is_better

    def has_changed(keeps, before):
        return ops.any(ops.not_equal(keeps, before))

    def update(keeps, before):
        return valid & ~ops.any(suppresses & ops.expand_dims(keeps, 1), axis=2), keeps

    keeps, _ = ops.while_loop(has_changed, update, (valid, ops.zeros_like(valid)))
    return keeps


def class_offsets(boxes: Tensor, classes: Tensor) -> Tensor:
    """Shifts the boxes (B, N, 4) of each class, int (B, N), away from all other classes.

    A single suppression then treats every class separately.
    """
    span = ops.max(boxes) - ops.min(boxes) + 1
    shift = ops.cast(classes, boxes.dtype) * span
    return boxes + ops.expand_dims(shift, -1)
