"""Crops of encoded images equal the same parts of the decoded ones, to the last bit."""

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
# Top, left, height and width, as parts of the image's: all, within, a corner of a pixel,
# beyond the end, a column.
BOXES = [
    (0, 0, 1, 1),
    (0.13, 0.15, 0.3, 0.33),
    (0.98, 0.99, 0.01, 0.01),
    (0.5, 0.6, 0.8, 0.8),
    (0, 0.1, 1, 0.01),
]


def picture(height=37, width=53):
    """Colours that differ from pixel to pixel, more or less smoothly."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype="uint8")
    small = Image.fromarray(noise[: height // 3, : width // 3])
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(smooth // 4 * 3 + noise // 4)


def encoded(image, kind="JPEG", **settings):
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def halved_in_height(jpeg):
    """4:4:0, which Pillow does not write: the blocks of a 4:2:2 one above the other."""
    head = jpeg.index(b"\xff\xc0") + 5
    assert jpeg[head + 6] == 0x21  # horizontal and vertical factor of the brightness
    height, width = struct.unpack(">HH", jpeg[head : head + 4])
    size = struct.pack(">HH", 2 * height, width // 2)
    return b"".join(
        [jpeg[:head], size, jpeg[head + 4 : head + 6], b"\x12", jpeg[head + 7 :]]
    )


EXIF = Image.Exif()
EXIF[0x0112] = 6
KINDS = {
    "4:4:4": encoded(picture(), subsampling=0),
    "4:2:2": encoded(picture(), subsampling=1),
    "4:2:0": encoded(picture(), subsampling=2),
    "4:1:1": encoded(picture(), subsampling="4:1:1"),
    "4:4:0": halved_in_height(encoded(picture(24, 96), subsampling=1)),
    "progressive": encoded(picture(), subsampling=2, progressive=True),
    "grey": encoded(picture().convert("L")),
    "CMYK": encoded(picture().convert("CMYK")),
    "turned": encoded(picture(53, 37), exif=EXIF),
    "bytes behind the end": encoded(picture()) + b"\0",
    "PNG": encoded(picture(), "PNG"),
    "turned PNG": encoded(picture(53, 37), "PNG", exif=EXIF),
    "PNG with alpha": encoded(picture().convert("RGBA"), "PNG"),
    "PNG of a palette": encoded(picture().quantize(9), "PNG"),
    "WebP": encoded(picture(), "WEBP"),
}


WHOLE_IS_NEEDED = "turned", "bytes behind the end", "WebP"
PNGS = "PNG", "PNG with alpha", "PNG of a palette"


def in_a_graph(crop, shape):
    """`crop` of a string tensor and one of `BOXES`; traced once."""

    def crop_box(data, box):
        def box_of(size):
            pixels = box * tf.cast(tf.tile(size, [2]), "float32")
            corner = tf.cast(pixels[:2], "int32")
            return tf.concat([corner, tf.cast(tf.math.ceil(pixels[2:]), "int32")], 0)

        return crop(data, box_of)

    signature = tf.TensorSpec(shape, "string"), tf.TensorSpec((4,))
    return tf.function(crop_box, input_signature=signature)


PART = in_a_graph(decoding.decode_part, ())
CROP_PAIR = in_a_graph(lambda pair, box_of: crop_pair(pair, CLASS_OF, box_of), (2,))
PART_OF_PAIR = in_a_graph(
    lambda pair, box_of: decode_part_of_pair(pair, CLASS_OF, box_of), (2,)
)
WHOLE = tf.function(decoding.decode_image, input_signature=[tf.TensorSpec((), "string")])


def place(box):
    top, left, height, width = box
    return slice(top, top + height), slice(left, left + width)


@pytest.mark.parametrize("kind", KINDS)
def test_a_crop_of_an_image(kind):
    """Without the rest of it of a JPEG that is upright and has its end."""
    whole = WHOLE(KINDS[kind]).numpy()
    is_cropped = decoding.can_be_cropped(KINDS[kind])
    assert is_cropped == (kind not in (*WHOLE_IS_NEEDED, *PNGS, "turned PNG"))
    for box in BOXES:
        part, pixels = PART(KINDS[kind], box)
        assert min(part.shape) > 0
        np.testing.assert_array_equal(part, whole[place(pixels)])


@pytest.mark.parametrize("missing", [2, 40, 2000])
def test_no_crop_of_a_jpeg_without_its_end(missing):
    """Not even one that lies above what is missing."""
    data = encoded(picture())[:-missing]
    assert not decoding.can_be_cropped(data)
    for box in BOXES:
        assert not CROP_PAIR((data, LABEL_MAPS["grey PNG"]), box)[0]


def test_a_jpeg_that_cannot_be_decoded():
    """Its end says no more than that it has one."""
    whole = encoded(picture(), progressive=True)
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
    "PNG of a palette": encoded(PALETTE, "PNG"),
    "16 bit PNG": encoded(Image.fromarray(LABELS.astype("uint16")), "PNG"),
    "4 bit PNG": encoded(PALETTE.point(lambda value: value % 16), "PNG", bits=4),
    "TIFF": encoded(Image.fromarray(LABELS), "TIFF"),
    "PNG without its end": encoded(Image.fromarray(LABELS), "PNG")[:-12],
}


@pytest.mark.parametrize("label_map", LABEL_MAPS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "4:4:0"])
def test_a_crop_of_a_pair(kind, label_map):
    """Pillow's pixels and classes, if both are what is usual."""
    pair = KINDS[kind], LABEL_MAPS[label_map]
    whole = decode_pair(*pair, CLASS_OF)
    others = *WHOLE_IS_NEEDED, "turned PNG", "CMYK"
    for box in BOXES:
        is_cropped, *_ = CROP_PAIR(pair, box)
        usual = label_map not in ("TIFF", "PNG without its end")
        assert is_cropped == (usual and kind not in others)
        (image, classes), pixels = PART_OF_PAIR(pair, box)
        np.testing.assert_array_equal(image, whole[..., :3][place(pixels)])
        np.testing.assert_array_equal(classes, whole[..., 3][place(pixels)])


@pytest.mark.parametrize(
    "labels", [np.where(LABELS < 2, np.uint8(40), LABELS), LABELS[:-1], LABELS[:, 1:]]
)
@pytest.mark.parametrize("mode", ["L", "P"])
def test_labels_that_do_not_belong_to_the_image(labels, mode):
    """An unknown one, and too few; wherever the box is."""
    image = Image.fromarray(np.ascontiguousarray(labels), mode)
    if mode == "P":
        image.putpalette([*range(256)] * 3)
    pair = KINDS["4:2:0"], encoded(image, "PNG")
    assert decode_labels(pair[1]).shape == labels.shape
    for box in BOXES:
        with pytest.raises(tf.errors.OpError):
            PART_OF_PAIR(pair, box)
