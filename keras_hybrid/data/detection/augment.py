"""Training crops and evaluation images, and where boxes are in them.

Each function returns a `Transform`, as those of `augment`. Its label is a truth of boxes
float32 (G, 4), [x1, y1, x2, y2] in pixels of the image (H, W, 3), and labels int32 (G,):
from 1 on what is to be found, -1 a region to ignore, 0 nothing. It returns (float32
(h, w, 3), geometry). `move` does with boxes what was done with the image. A
geometry is float32 (5,): the factors of x and y, then what is cut off at the left and at
the top, in pixels of the result, and 1 if it was mirrored after that.
"""

import tensorflow as tf

from keras_hybrid.data.transforms import Transform, mirrored_if, resized, whole

# CSP (Liu et al. 2019) on CityPersons: scales, and factors of the brightness.
_SCALE = 0.4, 1.5
_BRIGHTNESS = 0.5, 2.0
# Of an object at least this much of its area stays in a crop; the rest is ignored.
_INSIDE = 0.5


def random_scale_crop_flip(size, upscale=1.0):
    """A random part at a random scale and brightness, and its mirror image.

    Where there are objects to be found, one drawn at random is whole in it, or fills it:
    people are few, and most parts would be without (CSP, Liu et al. 2019, too). Half of
    the parts keep their brightness.

    Args:
        size: (height, width) of the result.
        upscale: Factor of all images before the random scale, as of `enlarged`.
    """

    def box(image_size, truth, seed):
        seeds = tf.unstack(tf.random.split(seed, 4))
        scale = upscale * tf.random.stateless_uniform((), seeds[0], *_SCALE)
        part = tf.cast(tf.round(tf.cast(size, "float32") / scale), "int32")
        corner = _corner(tf.maximum(image_size, part), part, *truth, seeds[1])
        return tf.concat([corner, part], axis=0)

    def finish(image, box, truth, seed):
        del truth
        seeds = tf.unstack(tf.random.split(seed, 4))
        image = resized(_padded(image, box[2:]), size)
        mirrored = tf.random.stateless_uniform((), seeds[2]) < 0.5
        image = _brightened(mirrored_if(mirrored, image), seeds[3])
        top, left, height, width = tf.unstack(tf.cast(box, "float32"))
        x, y = size[1] / width, size[0] / height
        geometry = tf.stack([x, y, x * left, y * top, tf.cast(mirrored, "float32")])
        return tf.ensure_shape(image, (*size, 3)), geometry

    return Transform(box, finish)


def enlarged(upscale, multiple):
    """The whole image, enlarged and then padded to multiples of a number."""

    def finish(image, box, truth, seed):
        del truth, seed
        before = tf.cast(box[2:], "float32")
        size = tf.cast(tf.round(before * upscale), "int32")
        image = resized(image, size)
        factors = tf.cast(size, "float32") / before
        geometry = tf.stack([factors[1], factors[0], 0.0, 0.0, 0.0])
        return _padded(image, -(-size // multiple) * multiple), geometry

    return Transform(whole, finish)


def move(boxes, labels, geometry, size):
    """Boxes where they are in the transformed image.

    Of an object of which less than half is in the image that part is to be ignored; what
    is outside of the image is nothing.

    Args:
        boxes: float32 (G, 4), [x1, y1, x2, y2] in pixels of the image before.
        labels: int32 (G,).
        geometry: float32 (5,), see the module.
        size: (height, width) of the image now.

    Returns:
        (boxes, labels) of the same shapes; boxes are clipped to the image.
    """
    height, width = tf.unstack(tf.cast(size, "float32"))
    factors, cut, mirrored = geometry[:2], geometry[2:4], geometry[4] > 0
    low, high = boxes[..., :2] * factors - cut, boxes[..., 2:] * factors - cut
    flipped_low = tf.stack([width - high[..., 0], low[..., 1]], axis=-1)
    flipped_high = tf.stack([width - low[..., 0], high[..., 1]], axis=-1)
    low, high = (
        tf.where(mirrored, flipped, straight)
        for flipped, straight in ((flipped_low, low), (flipped_high, high))
    )
    limits = tf.stack([width, height])
    inner_low, inner_high = (
        tf.clip_by_value(low, 0, limits),
        tf.clip_by_value(high, 0, limits),
    )
    area = tf.reduce_prod(high - low, axis=-1)
    inside = tf.reduce_prod(inner_high - inner_low, axis=-1)
    labels = tf.where((labels > 0) & (inside < _INSIDE * area), -1, labels)
    labels = tf.where(inside > 0, labels, 0)
    boxes = tf.concat([inner_low, inner_high], axis=-1)
    return tf.where(labels[..., None] == 0, 0.0, boxes), labels


def _corner(image_size, part, boxes, labels, seed):
    """Top and left, int32 (2,), of a part of such a size, with an object if there is one.

    Args:
        image_size, part: Height and width, int32 (2,); the part fits into the image.
        boxes, labels: See the module.
        seed: Integers (2,).
    """
    object_seed, corner_seed = tf.unstack(tf.random.split(seed, 2))
    room = tf.cast(image_size - part, "float32")
    draws = tf.random.stateless_uniform(tf.shape(labels), object_seed)
    box = boxes[tf.argmax(tf.where(labels > 0, draws, -1.0))]
    part = tf.cast(part, "float32")
    # The object is whole between these two, whichever of them is lower.
    one = tf.clip_by_value(box[1::-1], 0.0, room)
    other = tf.clip_by_value(box[:1:-1] - part, 0.0, room)
    found = tf.reduce_any(labels > 0)
    low = tf.where(found, tf.minimum(one, other), 0.0)
    high = tf.where(found, tf.maximum(one, other), room)
    corner = low + tf.random.stateless_uniform((2,), corner_seed) * (high - low + 1)
    return tf.cast(tf.minimum(tf.floor(corner), room), "int32")


def _padded(image, least):
    """Black at the right and at the bottom up to `least` (height, width) or more."""
    after = tf.maximum(least - tf.shape(image)[:2], 0)
    padding = [[0, after[0]], [0, after[1]], [0, 0]]
    return tf.cond(
        tf.reduce_any(after > 0), lambda: tf.pad(image, padding), lambda: image
    )


def _brightened(image, seed):
    chance_seed, factor_seed = tf.unstack(tf.random.split(seed, 2))
    factor = tf.random.stateless_uniform((), factor_seed, *_BRIGHTNESS)
    changes = tf.random.stateless_uniform((), chance_seed) < 0.5
    return tf.clip_by_value(tf.where(changes, factor, 1.0) * image, 0.0, 255.0)
