"""Training crops and evaluation images with their label maps.

Each function returns a `Transform`, as those of `augment`: from an image uint8 (H, W, 3)
and its label map uint8 (H, W) to float32 (h, w, 3) in 0..255 and uint8 (h, w). Both may
also be one array (H, W, 4), the label behind the colours, and become a float32 (h, w, 4).
Colours are resized bilinearly, labels take the nearest; pixels beside the image are black
and of no class.
"""

import tensorflow as tf

from keras_hybrid.data.segmentation.dataset import IGNORED
from keras_hybrid.data.transforms import Transform, mirrored_if, resized, whole

_SCALE = 0.5, 1.5


def random_scale_crop_flip(size):
    """A random part at a random scale, and its mirror image.

    Chen et al., "DeepLab", section 4.1: scales uniform in 0.5..1.5. The part is cut out
    before it is scaled, which is the same and quicker.

    Args:
        size: (height, width) of the result.
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


def padded_to_multiple(number):
    """The whole image; sides that are no multiples of `number` grow to the next one."""

    def finish(image, labels, box, seed):
        del seed
        image, labels = _padded(image, labels, -(-box[2:] // number) * number)
        return tf.cast(image, "float32"), labels

    return _of_both(whole, finish)


def _of_both(box, finish):
    """A `Transform` whose `finish(image, labels, box, seed)` returns the two."""

    def finish_both(part, box, label, seed):
        if isinstance(part, tuple):
            return finish(*part, box, seed), label
        image, labels = finish(part[..., :3], part[..., 3], box, seed)
        labels = tf.cast(labels, "float32")[..., None]
        return tf.concat([image, labels], axis=-1), label

    return Transform(box, finish_both)


def _padded(image, labels, least):
    """Grown at the right and at the bottom to `least` (height, width) or more."""
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
