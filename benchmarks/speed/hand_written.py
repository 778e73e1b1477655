"""Hand-written input pipelines, without any checks of the data.

Each function returns the batches of one shuffled epoch as a `tf.data.Dataset`, randomly
cropped, scaled and mirrored as by the transforms of `keras_hybrid.data`. `crop_first`
says whether only the crop of a JPEG is decoded, `antialias` whether images are resized
with antialiasing.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_MAPS_SCALE, _BOXES_SCALE = (0.5, 1.5), (0.4, 1.5)


def classes_pipeline(
    files: Sequence[str],
    labels: np.ndarray,
    size: int,
    batch_size: int,
    crop_first: bool,
    antialias: bool,
) -> tf.data.Dataset:
    """Returns random resized crops (B, size, size, 3) and labels (B,)."""

    def load(file, label):
        image, _ = _decoded(tf.io.read_file(file), _distorted_box, crop_first)
        image = tf.image.resize(image, (size, size), antialias=antialias)
        return tf.image.random_flip_left_right(image), label

    return _batches((files, labels), load, batch_size)


def maps_pipeline(
    files: Sequence[str],
    maps: Sequence[str],
    class_of: tf.Tensor,
    size: tuple[int, int],
    batch_size: int,
    crop_first: bool,
    antialias: bool,
) -> tf.data.Dataset:
    """Returns random crops (B, h, w, 3) at random scales and label maps (B, h, w)."""

    def load(file, label_map):
        image, box = _decoded(
            tf.io.read_file(file), _scaled_box(size, _MAPS_SCALE), crop_first
        )
        labels = tf.io.decode_png(tf.io.read_file(label_map), 1)
        labels = tf.image.crop_to_bounding_box(labels, *tf.unstack(box))
        labels = tf.gather(class_of, tf.cast(labels, "int32"))
        image = tf.image.resize(image, size, antialias=antialias)
        labels = tf.image.resize(labels, size, "nearest")
        if_mirrored = tf.random.uniform(()) < 0.5
        return tf.cond(
            if_mirrored,
            lambda: (tf.image.flip_left_right(image), labels[:, ::-1, 0]),
            lambda: (image, labels[..., 0]),
        )

    return _batches((files, maps), load, batch_size)


def boxes_pipeline(
    files: Sequence[str],
    boxes: np.ndarray,
    size: tuple[int, int],
    batch_size: int,
    crop_first: bool,
    antialias: bool,
) -> tf.data.Dataset:
    """Returns random crops (B, h, w, 3) at random scales and boxes (B, G, 4).

    Boxes are [x1, y1, x2, y2] in pixels of the crop.
    """

    def load(file, boxes):
        image, box = _decoded(
            tf.io.read_file(file), _scaled_box(size, _BOXES_SCALE), crop_first
        )
        image = tf.image.resize(image, size, antialias=antialias)
        top, left, height, width = tf.unstack(tf.cast(box, "float32"))
        factors = tf.stack([size[1] / width, size[0] / height] * 2)
        boxes = (boxes - tf.stack([left, top, left, top])) * factors
        boxes = tf.clip_by_value(
            boxes, 0.0, tf.constant([size[1], size[0]] * 2, "float32")
        )
        x1, y1, x2, y2 = tf.unstack(boxes, axis=-1)
        mirrored = tf.stack([size[1] - x2, y1, size[1] - x1, y2], axis=-1)
        image, boxes = tf.cond(
            tf.random.uniform(()) < 0.5,
            lambda: (tf.image.flip_left_right(image), mirrored),
            lambda: (image, boxes),
        )
        brighter = tf.cond(
            tf.random.uniform(()) < 0.5,
            lambda: tf.clip_by_value(image * tf.random.uniform((), 0.5, 2.0), 0.0, 255.0),
            lambda: image,
        )
        return brighter, boxes

    return _batches((files, boxes), load, batch_size)


def _batches(columns, load, batch_size):
    order = tf.data.Dataset.from_tensor_slices(columns).shuffle(len(columns[0]))
    images = order.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return images.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _decoded(encoded, box_of, crop_first):
    """Returns a crop and its box: top, left, height and width."""
    if crop_first:
        box = box_of(tf.io.extract_jpeg_shape(encoded))
        return tf.io.decode_and_crop_jpeg(encoded, box, 3), box
    image = tf.io.decode_jpeg(encoded, 3)
    box = box_of(tf.shape(image))
    return tf.slice(image, [*tf.unstack(box[:2]), 0], [*tf.unstack(box[2:]), 3]), box


def _distorted_box(shape):
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        shape,
        tf.zeros((0, 0, 4)),
        area_range=(0.08, 1.0),
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], axis=0)


def _scaled_box(size, scales):
    """Returns a function that samples a crop's box in an image of at least its size."""

    def box_of(shape):
        part = tf.cast(tf.cast(size, "float32") / tf.random.uniform((), *scales), "int32")
        room = tf.cast(shape[:2] - part + 1, "float32")
        corner = tf.cast(tf.random.uniform((2,)) * room, "int32")
        return tf.concat([corner, part], axis=0)

    return box_of
