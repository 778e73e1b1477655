"""Training crops and evaluation crops of images.

Each function returns a `Transform` for `tf.data`, from an RGB image (H, W, 3) in 0..255
to float32 (size, size, 3) in 0..255; the label is unchanged. `seed` is an integer tensor
of shape (2,); the same seed gives the same crop, and evaluation transforms ignore it.
Resizing is bilinear with antialiasing as in Pillow, which the published ImageNet recipes
use.
"""

import math

import tensorflow as tf

from keras_hybrid.data import random_crops
from keras_hybrid.data.transforms import Transform, mirrored_if, resized, whole
from keras_hybrid.training.types import Tensor

_AREA, _RATIO, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10


def random_resized_crop_flip(size: int) -> Transform:
    """A random crop, mirrored in half of the cases: the training crop of ImageNet.

    Szegedy et al., "Going Deeper with Convolutions", section 6, as in torchvision's
    `RandomResizedCrop(size)` and `RandomHorizontalFlip()`.
    """

    def box(image_size, label, seed):
        del label
        return crop_box(image_size, tf.random.split(seed, 2)[0])

    def finish(part, box, label, seed):
        del box
        image = _flip(resized(part, (size, size)), tf.random.split(seed, 2)[1])
        return _as_square(image, size), label

    return Transform(box, finish)


def crop_box(image_size: Tensor, seed: Tensor) -> tf.Tensor:
    """The box of torchvision's `RandomResizedCrop.get_params`.

    The area is uniform in 0.08..1 of the image's, the ratio of width to height is
    log-uniform in 3/4..4/3. The box is the first of ten samples that fits into the image
    or, if none does, the largest centred box with a ratio in that range.

    Args:
        image_size: Height and width in pixels, integers (2,).
        seed: Random seed, integers (2,).

    Returns:
        Top, left, height and width in pixels, int32 (4,).
    """
    image_size = tf.cast(image_size, "float32")
    samples = tf.random.stateless_uniform((_TRIES, 4), seed)
    area, ratio, place = tf.split(samples, (1, 1, 2), axis=1)
    area = _between(area, *_AREA) * tf.reduce_prod(image_size)
    root = _between(ratio, *map(math.log, _RATIO)) / 2
    sizes = tf.round(tf.sqrt(area) * tf.exp(root * (-1.0, 1.0)))
    fits = tf.reduce_all((sizes >= 1) & (sizes <= image_size), axis=1)

    def first():
        chosen = tf.gather(tf.concat([place, sizes], axis=1), tf.argmax(fits))
        corner = tf.floor(chosen[:2] * (image_size - chosen[2:] + 1))
        return tf.concat([corner, chosen[2:]], axis=0)

    def middle():
        largest = _largest_box(image_size)
        return tf.concat([(image_size - largest) // 2, largest], axis=0)

    return tf.cast(tf.cond(tf.reduce_any(fits), first, middle), "int32")


def resize_center_crop(size: int) -> Transform:
    """The centre crop for evaluation; the shorter side is 256 for a crop of 224 pixels.

    torchvision's `Resize(256)` and `CenterCrop(224)`, in the same proportion for other
    sizes. Only the crop is computed, so that a panorama does not fill the memory.
    """
    shorter_side = round(size * 256 / 224)

    def finish(image, box, label, seed):
        del box, seed
        old = tf.shape(image)[:2]
        new = shorter_side * old // tf.reduce_min(old)
        offset = tf.round(tf.cast(new - size, "float32") / 2)
        crop = tf.raw_ops.ScaleAndTranslate(
            images=image[None],
            size=(size, size),
            scale=tf.cast(new / old, "float32"),
            translation=-offset,
            kernel_type="triangle",
            antialias=True,
        )
        return _as_square(crop[0], size), label

    return Transform(whole, finish)


def pad_crop_flip(size: int, padding: int = random_crops.PADDING) -> Transform:
    """A crop shifted by up to `padding` pixels, mirrored in half of the cases: CIFAR.

    He et al., "Deep Residual Learning", section 4.2; torchvision's
    `RandomCrop(size, padding=4)`. The image is (size, size, 3); padding is black.
    """

    def finish(image, box, label, seed):
        del box
        crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 2))
        image = tf.ensure_shape(image, (size, size, 3))
        corner = tf.random.stateless_uniform((2,), crop_seed, 0, 2 * padding + 1, "int32")
        image = random_crops.shifted(image, corner, padding, _is_mirrored(flip_seed))
        return _as_square(image, size), label

    return Transform(whole, finish)


def as_is(size: int) -> Transform:
    """The image, which is (size, size, 3), unchanged: evaluation of small images."""

    def finish(image, box, label, seed):
        del box, seed
        return _as_square(image, size), label

    return Transform(whole, finish)


def _largest_box(image_size):
    """Height and width (2,) of the largest box with a ratio in 3/4..4/3."""
    height, width = tf.unstack(image_size)
    narrow, wide = _RATIO
    return tf.stack(
        [
            tf.minimum(height, tf.round(width / narrow)),
            tf.minimum(width, tf.round(height * wide)),
        ]
    )


def _between(uniform, low, high):
    return low + uniform * (high - low)


def _flip(image, seed):
    return mirrored_if(_is_mirrored(seed), image)


def _is_mirrored(seed):
    return tf.random.stateless_uniform((), seed) < 0.5


def _as_square(image, size):
    return tf.ensure_shape(tf.cast(image, "float32"), (size, size, 3))
