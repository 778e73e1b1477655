"""Training crops and evaluation images with their label maps.

Each function returns `transform(both, label, seed)`, as those of `augment`: from an image
and its label map, (H, W, 4) in 0..255, to float32 (h, w, 4). Colours are resized
bilinearly, labels take the nearest; pixels beside the image are black and of no class.
"""

import tensorflow as tf

from keras_hybrid.data.label_maps import IGNORED

_SCALE = 0.5, 1.5


def random_scale_crop_flip(size):
    """A random part at a random scale, and its mirror image.

    Chen et al., "DeepLab", section 4.1: scales uniform in 0.5..1.5. The part is cut out
    before it is scaled, which is the same and quicker.

    Args:
        size: (height, width) of the result.
    """

    def transform(both, label, seed):
        scale_seed, corner_seed, flip_seed = tf.unstack(tf.random.split(seed, 3))
        scale = tf.random.stateless_uniform((), scale_seed, *_SCALE)
        part = tf.cast(tf.round(tf.cast(size, "float32") / scale), "int32")
        both = _padded(tf.cast(both, "float32"), part)
        room = tf.cast(tf.shape(both)[:2] - part + 1, "float32")
        corner = tf.random.stateless_uniform((2,), corner_seed) * room
        top, left = tf.unstack(tf.cast(corner, "int32"))
        both = both[top : top + part[0], left : left + part[1]]
        image = tf.image.resize(both[..., :3], size, antialias=True)
        labels = tf.image.resize(both[..., 3:], size, "nearest")
        both = tf.concat([image, labels], axis=-1)
        mirrored = tf.random.stateless_uniform((), flip_seed) < 0.5
        both = tf.where(mirrored, both[:, ::-1], both)
        return tf.ensure_shape(both, (*size, 4)), label

    return transform


def padded_to_multiple(number):
    """The whole image; sides that are no multiples of `number` grow to the next one."""

    def transform(both, label, seed):
        del seed
        size = tf.shape(both)[:2]
        return _padded(tf.cast(both, "float32"), -(-size // number) * number), label

    return transform


def _padded(both, least):
    """Grown at the right and at the bottom to `least` (height, width) or more."""
    after = tf.maximum(least - tf.shape(both)[:2], 0)
    padding = [[0, after[0]], [0, after[1]], [0, 0]]
    colours = tf.pad(both[..., :3], padding)
    labels = tf.pad(both[..., 3:], padding, constant_values=IGNORED)
    return tf.concat([colours, labels], axis=-1)
