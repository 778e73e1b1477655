"""Training crops and evaluation images, with the boxes in them.

Each function returns a `Transform` from an image (H, W, 3) and its ground truth to
(float32 (h, w, 3), geometry). The ground truth is a pair of boxes float32 (G, 4),
[x1, y1, x2, y2] in pixels of the image, and labels int32 (G,): 1 or more for an object to
detect, -1 for a region to ignore, 0 for padding. `move` transforms boxes as the image was
transformed. A geometry is float32 (5,): the scale factors of x and y, the margins cropped
at the left and at the top in pixels of the result, and 1 if it was mirrored after that.
"""

import tensorflow as tf

from keras_hybrid.data import random_crops
from keras_hybrid.data.transforms import Transform, whole

move = random_crops.move


def random_scale_crop_flip(size: tuple[int, int], upscale: float = 1.0) -> Transform:
    """A random crop at a random scale and brightness, mirrored in half of the cases.

    If the image has objects to detect, the crop contains a randomly sampled one whole, or
    is filled by it: people are sparse, and most crops would contain none (likewise CSP,
    Liu et al. 2019). Half of the crops keep their brightness.

    Args:
        size: Size (height, width) of the result in pixels.
        upscale: Factor applied to all images before the random scale, as in `enlarged`.
    """

    def box(image_size, truth, seed):
        seeds = tf.unstack(tf.random.split(seed, 4))
        scale = upscale * tf.random.stateless_uniform(
            (), seeds[0], *random_crops.PEOPLE_SCALES
        )
        object_seed, place_seed = tf.unstack(tf.random.split(seeds[1], 2))
        found, around = _random_object(*truth, object_seed)
        place = tf.random.stateless_uniform((2,), place_seed)
        return random_crops.box_with_object(image_size, size, scale, place, found, around)

    def finish(image, box, truth, seed):
        del truth
        seeds = tf.unstack(tf.random.split(seed, 4))
        mirrored = tf.random.stateless_uniform((), seeds[2]) < 0.5
        brightness = _random_brightness(seeds[3])
        image, geometry = random_crops.with_people(image, box, size, mirrored, brightness)
        return tf.ensure_shape(image, (*size, 3)), geometry

    return Transform(box, finish)


def enlarged(upscale: float, multiple: int) -> Transform:
    """The whole image, enlarged, then padded until its sides are multiples of a number.

    Args:
        upscale: Factor of height and width.
        multiple: Number of pixels of which the sides are multiples.
    """

    def finish(image, box, truth, seed):
        del box, truth, seed
        return random_crops.enlarged(image, upscale, multiple)

    return Transform(whole, finish)


def _random_object(boxes, labels, seed):
    """Whether there is an object to detect, and the box of a randomly sampled one (4,).

    Args:
        boxes, labels: See the module's docstring.
        seed: Integers (2,).
    """
    scores = tf.random.stateless_uniform(tf.shape(labels), seed)
    around = boxes[tf.argmax(tf.where(labels > 0, scores, -1.0))]
    return tf.reduce_any(labels > 0), around


def _random_brightness(seed):
    chance_seed, factor_seed = tf.unstack(tf.random.split(seed, 2))
    factor = tf.random.stateless_uniform((), factor_seed, *random_crops.BRIGHTNESS)
    return tf.where(tf.random.stateless_uniform((), chance_seed) < 0.5, factor, 1.0)
