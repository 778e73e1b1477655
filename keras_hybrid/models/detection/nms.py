"""Non-maximum suppression with fixed shapes, which Keras has not."""

import keras
from keras import ops

# Pixels of a side (as torchvision). LiteRT chooses a box without area over and over until
# it has `count`: it takes back what it chose, and finds that it does not overlap itself.
_SMALLEST_SIDE = 1e-3


def non_max_suppression(boxes, valid, count, iou_threshold):
    """Keeps the best boxes, and of those that overlap the best one, for each image.

    Args:
        boxes: float32 (B, N, 4), corners in pixels, best first.
        valid: bool (B, N), which of them are boxes at all. What has no area is none.
        count: How many to keep, at most.
        iou_threshold: Boxes with a higher IoU than this to a better one go.

    Returns:
        (indices, kept): int32 (B, count), best first, and bool (B, count), which of them
        stand for a box.
    """
    # Ranks, for of equal scores LiteRT takes any first, and TensorFlow the first.
    ranks = ops.arange(boxes.shape[1], 0, -1, dtype="float32")
    sides = boxes[..., 2:] - boxes[..., :2]
    valid &= ops.min(sides, axis=-1) >= _SMALLEST_SIDE
    if keras.backend.backend() != "tensorflow":
        stays = _without_overlap(ops.stop_gradient(boxes), valid, iou_threshold)
        most = min(count, boxes.shape[1])
        best, indices = ops.top_k(ops.where(stays, ranks, 0.0), most)
        indices = ops.where(best > 0, ops.cast(indices, "int32"), 0)
        padding = (0, 0), (0, count - most)
        return ops.pad(indices, padding), ops.pad(best > 0, padding)

    import tensorflow as tf

    scores = ops.where(valid, ranks, 0.0)

    def of_image(image):
        # The kernel itself: `tf.image.non_max_suppression_padded` is a loop of hundreds
        # of operations, which take a second to trace and most of a small step to run.
        indices, found = tf.raw_ops.NonMaxSuppressionV4(
            boxes=image[0],
            scores=image[1],
            max_output_size=count,
            iou_threshold=iou_threshold,
            score_threshold=0.0,
            pad_to_max_output_size=True,
        )
        kept = tf.range(count) < found
        # Also because LiteRT's converter would take a reshape right behind the operator
        # for its own, and its output then has another shape than the file says.
        return tf.where(kept, indices, 0), kept

    if boxes.shape[0] == 1:  # Without a loop it converts to one operator of LiteRT.
        indices, kept = of_image((boxes[0], scores[0]))
        return ops.reshape(indices, (1, count)), ops.reshape(kept, (1, count))
    types = tf.TensorSpec((count,), "int32"), tf.TensorSpec((count,), "bool")
    return tf.map_fn(of_image, (boxes, scores), fn_output_signature=types)


def _without_overlap(boxes, valid, iou_threshold):
    """Which boxes stay (B, N), by products of whole images for want of an operator.

    A box stays if no better one overlaps it that stays itself. Asked of all boxes at
    once, over and over, the answer is settled for one more of each chain of boxes every
    time; once nothing changes it is for all.
    """
    iou = keras.utils.bounding_boxes.compute_iou(boxes, boxes, "xyxy")
    is_better = ops.tril(ops.ones((boxes.shape[1],) * 2, dtype="bool"), k=-1)
    covers = (iou > iou_threshold) & is_better

    def changes(stays, before):
        return ops.any(ops.not_equal(stays, before))

    def ask_again(stays, before):
        return valid & ~ops.any(covers & ops.expand_dims(stays, 1), axis=2), stays

    stays, _ = ops.while_loop(changes, ask_again, (valid, ops.zeros_like(valid)))
    return stays


def class_offsets(boxes, classes):
    """Shifts the boxes (B, N, 4) of each class (B, N) to where no other's are.

    So that one suppression leaves the classes apart.
    """
    span = ops.max(boxes) - ops.min(boxes) + 1
    shift = ops.cast(classes, boxes.dtype) * span
    return boxes + ops.expand_dims(shift, -1)
