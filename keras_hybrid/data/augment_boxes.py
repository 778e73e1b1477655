"""Training crops and evaluation images, and where boxes are in them.

Each function returns `transform(image, seed)`, as those of `augment`: from an image
(H, W, 3) in 0..255 to (float32 (h, w, 3), geometry). `move` does with boxes what was done
with the image. A geometry is float32 (5,): the factors of x and y, then what is cut off
at the left and at the top, in pixels of the result, and 1 if it was mirrored after that.
"""

import tensorflow as tf

# CSP (Liu et al. 2019) on CityPersons: scales, and factors of the brightness.
_SCALE = 0.4, 1.5
_BRIGHTNESS = 0.5, 2.0
# Of an object at least this much of its area stays in a crop; the rest is ignored.
_INSIDE = 0.5


def random_scale_crop_flip(size, upscale=1.0):
    """A random part at a random scale and brightness, and its mirror image.

    Half of the parts keep their brightness.

    Args:
        size: (height, width) of the result.
        upscale: Factor of all images before the random scale, as of `enlarged`.
    """

    def transform(image, seed):
        seeds = tf.unstack(tf.random.split(seed, 4))
        scale = upscale * tf.random.stateless_uniform((), seeds[0], *_SCALE)
        part = tf.cast(tf.round(tf.cast(size, "float32") / scale), "int32")
        image = _padded(tf.cast(image, "float32"), part)
        room = tf.cast(tf.shape(image)[:2] - part + 1, "float32")
        corner = tf.random.stateless_uniform((2,), seeds[1]) * room
        top, left = tf.unstack(tf.cast(corner, "int32"))
        image = image[top : top + part[0], left : left + part[1]]
        image = tf.image.resize(image, size, antialias=True)
        factors = tf.cast(size, "float32") / tf.cast(part, "float32")
        mirrored = tf.random.stateless_uniform((), seeds[2]) < 0.5
        image = tf.where(mirrored, image[:, ::-1], image)
        image = _brightened(image, seeds[3])
        geometry = tf.stack(
            [
                factors[1],
                factors[0],
                factors[1] * tf.cast(left, "float32"),
                factors[0] * tf.cast(top, "float32"),
                tf.cast(mirrored, "float32"),
            ]
        )
        return tf.ensure_shape(image, (*size, 3)), geometry

    return transform


def enlarged(upscale, multiple):
    """The whole image, enlarged and then padded to multiples of a number."""

    def transform(image, seed):
        del seed
        before = tf.cast(tf.shape(image)[:2], "float32")
        size = tf.cast(tf.round(before * upscale), "int32")
        image = tf.image.resize(tf.cast(image, "float32"), size, antialias=True)
        factors = tf.cast(size, "float32") / before
        geometry = tf.stack([factors[1], factors[0], 0.0, 0.0, 0.0])
        return _padded(image, -(-size // multiple) * multiple), geometry

    return transform


def move(boxes, labels, geometry, size):
    """Boxes where they are in the transformed images.

    Of an object of which less than half is in the image that part is to be ignored; what
    is outside of the image is nothing.

    Args:
        boxes: float32 (B, G, 4), [x1, y1, x2, y2] in pixels of the images before.
        labels: int32 (B, G).
        geometry: float32 (B, 5), see the module.
        size: (height, width) of the images now.

    Returns:
        (boxes, labels) of the same shapes; boxes are clipped to the images.
    """
    height, width = tf.unstack(tf.cast(size, "float32"))
    factors, cut, mirrored = geometry[:, None, :2], geometry[:, None, 2:4], geometry[:, 4]
    low, high = boxes[..., :2] * factors - cut, boxes[..., 2:] * factors - cut
    flipped_low = tf.stack([width - high[..., 0], low[..., 1]], axis=-1)
    flipped_high = tf.stack([width - low[..., 0], high[..., 1]], axis=-1)
    mirrored = mirrored[:, None, None] > 0
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


def _padded(image, least):
    """Black at the right and at the bottom up to `least` (height, width) or more."""
    after = tf.maximum(least - tf.shape(image)[:2], 0)
    return tf.pad(image, [[0, after[0]], [0, after[1]], [0, 0]])


def _brightened(image, seed):
    chance_seed, factor_seed = tf.unstack(tf.random.split(seed, 2))
    factor = tf.random.stateless_uniform((), factor_seed, *_BRIGHTNESS)
    changes = tf.random.stateless_uniform((), chance_seed) < 0.5
    return tf.clip_by_value(tf.where(changes, factor * image, image), 0.0, 255.0)
