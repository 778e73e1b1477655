"""Training crops and evaluation images with their label maps.

Each function returns a `Transform` from an image uint8 (H, W, 3) and its label map uint8
(H, W) to float32 (h, w, 3) in 0..255 and uint8 (h, w). Both may also be one array
(H, W, 4) with the label as the last channel; the result is then float32 (h, w, 4). Images
are resized bilinearly, label maps by nearest neighbour; padding is black and has the
label `IGNORED`.
"""

import tensorflow as tf

from keras_hybrid.data.segmentation.dataset import IGNORED
from keras_hybrid.data.transforms import Transform, mirrored_if, resized, whole

_SCALE = 0.5, 1.5


def random_scale_crop_flip(size: tuple[int, int]) -> Transform:
    """A random crop at a random scale, mirrored in half of the cases.

    Chen et al., "DeepLab", section 4.1: scales uniform in 0.5..1.5. Cropping before
    scaling gives the same result faster.

    Args:
        size: Size (height, width) of the result in pixels.
    """

    def box(image_size, label, seed):
        del label
        scale_seed, corner_seed, _ = tf.unstack(tf.random.split(seed, 3))
        scale = tf.random.stateless_uniform((), scale_seed, *_SCALE)
        part = tf.cast(tf.round(tf.cast(size, "float32") / scale), "int32")
        room = tf.cast(tf.maximum(image_size - part, 0) + 1, "float32")
        corner = tf.random.stateless_uniform((2,), corner_seed) * room
        return tf.concat([tf.cast(corner, "int32"), part], axis=0)

    def finish(image, labels, box, seed):
        image, labels = _padded(image, labels, box[2:])
        image = resized(image, size)
        labels = tf.image.resize(labels[..., None], size, "nearest")
        flip_seed = tf.random.split(seed, 3)[2]
        mirrored = tf.random.stateless_uniform((), flip_seed) < 0.5
        image, labels = mirrored_if(mirrored, image), mirrored_if(mirrored, labels)
        return tf.ensure_shape(image, (*size, 3)), tf.ensure_shape(labels[..., 0], size)

    return _of_both(box, finish)


def padded_to_multiple(number: int) -> Transform:
    """The whole image, with height and width padded to the next multiple of `number`."""

    def finish(image, labels, box, seed):
        del seed
        image, labels = _padded(image, labels, -(-box[2:] // number) * number)
        return tf.cast(image, "float32"), labels

    return _of_both(whole, finish)


def _of_both(box, finish):
    """A `Transform` from `finish(image, labels, box, seed)`, which returns the two."""

    def finish_both(part, box, label, seed):
        if isinstance(part, tuple):
            return finish(*part, box, seed), label
        image, labels = finish(part[..., :3], part[..., 3], box, seed)
        labels = tf.cast(labels, "float32")[..., None]
        return tf.concat([image, labels], axis=-1), label

    return Transform(box, finish_both)


def _padded(image, labels, least):
    """Pads at the right and at the bottom to at least `least` (height, width)."""
    after = tf.maximum(least - tf.shape(labels), 0)
    padding = [[0, after[0]], [0, after[1]]]
    return tf.cond(
        tf.reduce_any(after > 0),
        lambda: (
            tf.pad(image, [*padding, [0, 0]]),
            tf.pad(labels, padding, constant_values=IGNORED),
        ),
        lambda: (image, labels),
    )
