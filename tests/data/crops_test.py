"""Crops of encoded images are bit-identical to crops of the decoded images."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_hybrid.data import decoding
from keras_hybrid.data.segmentation.decoding import (
    crop_pair,
    decode_labels,
    decode_pair,
    decode_part_of_pair,
)

CLASS_OF = np.append(np.arange(40), [-1] * 215 + [255]).astype("int16")
# Top, left, height and width relative to the image: the whole image, a part, one pixel in
# a corner, a box beyond the end, a column.
BOXES = [
    (0, 0, 1, 1),
    (0.13, 0.15, 0.3, 0.33),
    (0.98, 0.99, 0.01, 0.01),
    (0.5, 0.6, 0.8, 0.8),
    (0, 0.1, 1, 0.01),
]


def random_image(height=37, width=53):
    """An image of smooth colours plus noise."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype="uint8")
    small = Image.fromarray(noise[: height // 3, : width // 3])
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(smooth // 4 * 3 + noise // 4)


def encoded(image, kind="JPEG", **settings):
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def vertically_subsampled(jpeg):
    """A 4:4:0 JPEG, which Pillow cannot write, made from the blocks of a 4:2:2 JPEG."""
    head = jpeg.index(b"\xff\xc0") + 5
    assert jpeg[head + 6] == 0x21  # horizontal and vertical sampling factor of luma
    height, width = struct.unpack(">HH", jpeg[head : head + 4])
    size = struct.pack(">HH", 2 * height, width // 2)
    return b"".join(
        [jpeg[:head], size, jpeg[head + 4 : head + 6], b"\x12", jpeg[head + 7 :]]
    )


EXIF = Image.Exif()
EXIF[0x0112] = 6
KINDS = {
    "4:4:4": encoded(random_image(), subsampling=0),
    "4:2:2": encoded(random_image(), subsampling=1),
    "4:2:0": encoded(random_image(), subsampling=2),
    "4:1:1": encoded(random_image(), subsampling="4:1:1"),
    "4:4:0": vertically_subsampled(encoded(random_image(24, 96), subsampling=1)),
    "progressive": encoded(random_image(), subsampling=2, progressive=True),
    "grey": encoded(random_image().convert("L")),
    "CMYK": encoded(random_image().convert("CMYK")),
    "rotated by EXIF": encoded(random_image(53, 37), exif=EXIF),
    "trailing bytes": encoded(random_image()) + b"\0",
    "PNG": encoded(random_image(), "PNG"),
    "PNG rotated by EXIF": encoded(random_image(53, 37), "PNG", exif=EXIF),
    "PNG with alpha": encoded(random_image().convert("RGBA"), "PNG"),
    "palette PNG": encoded(random_image().quantize(9), "PNG"),
    "WebP": encoded(random_image(), "WEBP"),
}


NOT_CROPPABLE = "rotated by EXIF", "trailing bytes", "WebP"
PNGS = "PNG", "PNG with alpha", "palette PNG"


def graph_function(crop, shape):
    """A graph function of a string tensor and one of `BOXES` that calls `crop`."""

    def crop_box(data, box):
        def box_of(size):
            pixels = box * tf.cast(tf.tile(size, [2]), "float32")
            corner = tf.cast(pixels[:2], "int32")
            return tf.concat([corner, tf.cast(tf.math.ceil(pixels[2:]), "int32")], 0)

        return crop(data, box_of)

    signature = tf.TensorSpec(shape, "string"), tf.TensorSpec((4,))
    return tf.function(crop_box, input_signature=signature)


PART = graph_function(decoding.decode_part, ())
CROP_PAIR = graph_function(lambda pair, box_of: crop_pair(pair, CLASS_OF, box_of), (2,))
PART_OF_PAIR = graph_function(
    lambda pair, box_of: decode_part_of_pair(pair, CLASS_OF, box_of), (2,)
)
WHOLE = tf.function(decoding.decode_image, input_signature=[tf.TensorSpec((), "string")])


def slices(box):
    top, left, height, width = box
    return slice(top, top + height), slice(left, left + width)


@pytest.mark.parametrize("kind", KINDS)
def test_cropped_decoding_equals_a_crop_of_the_whole_image(kind):
    """Only an upright, complete JPEG is decoded in part."""
    whole = WHOLE(KINDS[kind]).numpy()
    is_cropped = decoding.can_be_cropped(KINDS[kind])
    assert is_cropped == (kind not in (*NOT_CROPPABLE, *PNGS, "PNG rotated by EXIF"))
    for box in BOXES:
        part, pixels = PART(KINDS[kind], box)
        assert min(part.shape) > 0
        np.testing.assert_array_equal(part, whole[slices(pixels)])


@pytest.mark.parametrize("missing", [2, 40, 2000])
def test_a_truncated_jpeg_is_not_decoded_in_part(missing):
    """Not even if the crop lies above the missing part."""
    data = encoded(random_image())[:-missing]
    assert not decoding.can_be_cropped(data)
    for box in BOXES:
        assert not CROP_PAIR((data, LABEL_MAPS["grey PNG"]), box)[0]


def test_an_undecodable_jpeg_raises_an_error():
    """The file has an end marker but no image data."""
    whole = encoded(random_image(), progressive=True)
    data = whole[: whole.index(b"\xff\xda")] + b"\xff\xd9"
    for box in BOXES:
        with pytest.raises(tf.errors.InvalidArgumentError, match="JPEG"):
            PART(data, box)


LABELS = np.random.default_rng(1).integers(0, 40, (37, 53), dtype="uint8")
LABELS[3, 4] = 255
PALETTE = Image.fromarray(LABELS, "P")
PALETTE.putpalette([*range(256)] * 3)
LABEL_MAPS = {
    "grey PNG": encoded(Image.fromarray(LABELS), "PNG"),
    "palette PNG": encoded(PALETTE, "PNG"),
    "16 bit PNG": encoded(Image.fromarray(LABELS.astype("uint16")), "PNG"),
    "4 bit PNG": encoded(PALETTE.point(lambda value: value % 16), "PNG", bits=4),
    "TIFF": encoded(Image.fromarray(LABELS), "TIFF"),
    "truncated PNG": encoded(Image.fromarray(LABELS), "PNG")[:-12],
}


@pytest.mark.parametrize("label_map", LABEL_MAPS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "4:4:0"])
def test_cropped_decoding_of_a_pair_equals_a_crop_of_the_whole_pair(kind, label_map):
    """Pixels and classes equal Pillow's; only common formats are decoded in part."""
    pair = KINDS[kind], LABEL_MAPS[label_map]
    whole = decode_pair(*pair, CLASS_OF)
    others = *NOT_CROPPABLE, "PNG rotated by EXIF", "CMYK"
    for box in BOXES:
        is_cropped, *_ = CROP_PAIR(pair, box)
        usual = label_map not in ("TIFF", "truncated PNG")
        assert is_cropped == (usual and kind not in others)
        (image, classes), pixels = PART_OF_PAIR(pair, box)
        np.testing.assert_array_equal(image, whole[..., :3][slices(pixels)])
        np.testing.assert_array_equal(classes, whole[..., 3][slices(pixels)])


@pytest.mark.parametrize(
    "labels", [np.where(LABELS < 2, np.uint8(40), LABELS), LABELS[:-1], LABELS[:, 1:]]
)
@pytest.mark.parametrize("mode", ["L", "P"])
def test_labels_that_do_not_fit_the_image_raise_an_error(labels, mode):
    """An unknown label or too few labels, at every box."""
    image = Image.fromarray(np.ascontiguousarray(labels), mode)
    if mode == "P":
        image.putpalette([*range(256)] * 3)
    pair = KINDS["4:2:0"], encoded(image, "PNG")
    assert decode_labels(pair[1]).shape == labels.shape
    for box in BOXES:
        with pytest.raises(tf.errors.OpError):
            PART_OF_PAIR(pair, box)
