"""Training crops and evaluation images with their label maps.

Each function returns a `Transform` from an image uint8 (H, W, 3) and its label map uint8
(H, W) to float32 (h, w, 3) in 0..255 and uint8 (h, w). Both may also be one array
(H, W, 4) with the label as the last channel; the result is then float32 (h, w, 4). Images
are resized bilinearly, label maps by nearest neighbour; padding is black and has the
label 255.
"""

import tensorflow as tf

from keras_hybrid.data import random_crops
from keras_hybrid.data.transforms import Transform, whole


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
        scale = tf.random.stateless_uniform(
            (), scale_seed, *random_crops.LABEL_MAP_SCALES
        )
        place = tf.random.stateless_uniform((2,), corner_seed)
        return random_crops.box_anywhere(image_size, size, scale, place)

    def finish(image, labels, box, seed):
        flip_seed = tf.random.split(seed, 3)[2]
        mirrored = tf.random.stateless_uniform((), flip_seed) < 0.5
        image, labels = random_crops.with_label_map(image, labels, box, size, mirrored)
        return tf.ensure_shape(image, (*size, 3)), tf.ensure_shape(labels, size)

    return _of_both(box, finish)


def padded_to_multiple(number: int) -> Transform:
    """The whole image, with height and width padded to the next multiple of `number`."""

    def finish(image, labels, box, seed):
        del seed
        least = -(-box[2:] // number) * number
        image, labels = random_crops.padded_with_labels(image, labels, least)
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
