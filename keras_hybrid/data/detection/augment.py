"""Training crops and evaluation images, with the boxes in them.

Each function returns a `Transform` from an image (H, W, 3) and its ground truth to
(float32 (h, w, 3), geometry). The ground truth is a pair of boxes float32 (G, 4),
[x1, y1, x2, y2] in pixels of the image, and labels int32 (G,): 1 or more for an object to
detect, -1 for a region to ignore, 0 for padding. `move` transforms boxes as the image was
transformed. A geometry is float32 (5,): the scale factors of x and y, the margins cropped
at the left and at the top in pixels of the result, and 1 if it was mirrored after that.
"""

import tensorflow as tf

from keras_hybrid.data.transforms import Transform, mirrored_if, resized, whole

# CSP (Liu et al. 2019) on CityPersons: scales and brightness factors.
_SCALE = 0.4, 1.5
_BRIGHTNESS = 0.5, 2.0
# An object with less than this fraction of its area inside a crop is ignored.
_INSIDE = 0.5


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


def enlarged(upscale: float, multiple: int) -> Transform:
    """The whole image, enlarged, then padded until its sides are multiples of a number.

    Args:
        upscale: Factor of height and width.
        multiple: Number of pixels of which the sides are multiples.
    """

    def finish(image, box, truth, seed):
        del truth, seed
        before = tf.cast(box[2:], "float32")
        size = tf.cast(tf.round(before * upscale), "int32")
        image = resized(image, size)
        factors = tf.cast(size, "float32") / before
        geometry = tf.stack([factors[1], factors[0], 0.0, 0.0, 0.0])
        return _padded(image, -(-size // multiple) * multiple), geometry

    return Transform(whole, finish)


def move(
    boxes: tf.Tensor,
    labels: tf.Tensor,
    geometry: tf.Tensor,
    size: tf.Tensor | tuple[int, int],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Moves boxes to where they are in the transformed image.

    An object with less than half of its area inside the image becomes a region to ignore;
    a box that is entirely outside becomes padding.

    Args:
        boxes: float32 (G, 4), [x1, y1, x2, y2] in pixels of the original image.
        labels: int32 (G,), see the module's docstring.
        geometry: float32 (5,), see the module's docstring.
        size: Size (height, width) of the transformed image in pixels.

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
    """Top and left, int32 (2,), of a crop that contains an object if there is one.

    Args:
        image_size, part: Height and width, int32 (2,), of the image and of the crop,
            which fits into the image.
        boxes, labels: See the module's docstring.
        seed: Integers (2,).
    """
    object_seed, corner_seed = tf.unstack(tf.random.split(seed, 2))
    room = tf.cast(image_size - part, "float32")
    scores = tf.random.stateless_uniform(tf.shape(labels), object_seed)
    box = boxes[tf.argmax(tf.where(labels > 0, scores, -1.0))]
    part = tf.cast(part, "float32")
    # Between these two corners (either can be lower) the crop contains the object or is
    # filled by it.
    one = tf.clip_by_value(box[1::-1], 0.0, room)
    other = tf.clip_by_value(box[:1:-1] - part, 0.0, room)
    found = tf.reduce_any(labels > 0)
    low = tf.where(found, tf.minimum(one, other), 0.0)
    high = tf.where(found, tf.maximum(one, other), room)
    corner = low + tf.random.stateless_uniform((2,), corner_seed) * (high - low + 1)
    return tf.cast(tf.minimum(tf.floor(corner), room), "int32")


def _padded(image, least):
    """Pads with black at the right and bottom to at least `least` (height, width)."""
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
