"""Encoded images to upright RGB pixels.

Cameras store the pixels as the sensor has them, and in an EXIF tag how to turn them.
People annotate what they are shown, so that boxes and label maps fit the upright image.
"""

import io

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from keras_hybrid.data.transforms import cut

_FORMATS = "JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"
_ORIENTATION = 0x0112  # EXIF's tag: 1 is upright, see `turned`
# One of them stands in each file with an orientation: Exif in JPEG, eXIf in PNG (in those
# of ImageMagick "Raw profile type exif"), and the name of the tag in XMP.
_MARKS = b"xif", b"XIf", b"tiff:Orientation"
_HEAD = 1 << 14  # bytes of a JPEG, which starts with EXIF but for a profile or comment
MARKED = r"\C*(?:xif|XIf|tiff:Orientation)\C*"


def decode_image(encoded):
    """uint8 (H, W, 3), upright, of grey, CMYK, palette, 16 bit or transparent ones too.

    TensorFlow decodes JPEG and PNG, and Pillow all other formats.

    Args:
        encoded: A string tensor.
    """
    is_png = tf.strings.substr(encoded, 0, 4) == b"\x89PNG"
    image = tf.cond(
        tf.io.is_jpeg(encoded) | is_png,
        lambda: _by_tensorflow(encoded, is_png),
        lambda: of_bytes(_by_pillow, encoded, "uint8"),
    )
    return tf.ensure_shape(image, (None, None, 3))


def decode_part(encoded, box_of):
    """What a box has of the image that `decode_image` returns.

    Of a JPEG that `can_be_cropped`, no more than that is decoded.

    Args:
        encoded: A string tensor.
        box_of: From the image's height and width in pixels, int32 (2,), to the `box` of a
            `Transform`.

    Returns:
        (uint8 (h, w, 3), the box).

    Raises:
        tf.errors.OpError: It cannot be decoded.
    """

    def part():
        size = tf.io.extract_jpeg_shape(encoded)[:2]
        box = box_of(size)
        return crop_jpeg(encoded, size, box), box

    return tf.cond(
        can_be_cropped(encoded), part, lambda: part_of(decode_image(encoded), box_of)
    )


def part_of(image, box_of):
    """What a box has of an image, or of several of one size: (pixels, the box)."""
    box = box_of(tf.shape(tf.nest.flatten(image)[0])[:2])
    return cut(image, box), box


def can_be_cropped(encoded):
    """Whether it is a JPEG whose pixels are stored as they are shown, with its end.

    That the end is missing, libjpeg notices only where it has to decode it.
    """
    length = tf.strings.length(encoded)
    ends = tf.strings.substr(encoded, -tf.minimum(length, 2), 2) == b"\xff\xd9"
    return tf.io.is_jpeg(encoded) & ends & (_orientation(encoded, False) == 1)


def crop_jpeg(encoded, size, box, dct_method=""):
    """What a box has of an image that `can_be_cropped`.

    To the last bit that of the whole image. Where colours are stored at half the size, a
    pixel's depends on its neighbours': one more on each side is decoded.

    Args:
        encoded: A string tensor.
        size: Height and width of the image, int32 (2,).
        box: See `Transform`.
        dct_method: As of `tf.io.decode_jpeg`; Pillow's is `"INTEGER_ACCURATE"`.

    Returns:
        uint8 (h, w, 3).

    Raises:
        tf.errors.OpError: It cannot be decoded.
    """
    begin, end = tf.maximum(box[:2] - 1, 0), tf.minimum(box[:2] + box[2:] + 1, size)
    window = tf.concat([begin, end - begin], axis=0)
    image = tf.io.decode_and_crop_jpeg(encoded, window, 3, dct_method=dct_method)
    inner = tf.minimum(box[2:], size - box[:2])
    return cut(image, tf.concat([box[:2] - begin, inner], axis=0))


def _by_tensorflow(encoded, is_png):
    image = tf.io.decode_image(encoded, 3, expand_animations=False)
    orientation = _orientation(encoded, is_png)
    return tf.cond(
        orientation == 1,
        lambda: image,
        lambda: tf.numpy_function(turned, [image, orientation], "uint8", stateful=False),
    )


def _orientation(encoded, is_png):
    """See `orientation_of`, of a JPEG or PNG; int32."""
    # Of the usual JPEG Python is not asked, one of whose threads runs at a time.
    head = tf.strings.substr(encoded, 0, _HEAD)
    return tf.cond(
        is_png | tf.strings.regex_full_match(head, MARKED),
        lambda: of_bytes(_by_marks, encoded, "int32"),
        lambda: 1,
    )


def of_bytes(function, encoded, dtype):
    """What a function of bytes returns, of a string tensor."""

    def of_numpy(encoded):
        # An array of objects where TensorFlow is eager.
        return function(np.asarray(encoded, object).item())

    encoded = tf.convert_to_tensor(encoded)
    return tf.numpy_function(of_numpy, [encoded], dtype, stateful=False)


def _by_pillow(encoded):
    image = opened(encoded, "image")
    return turned(rgb(image), orientation_of(image))


def _by_marks(encoded):
    if not any(mark in encoded for mark in _MARKS):
        return np.int32(1)  # Pillow would decode all of a PNG to find that out
    try:
        image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
    except Exception:  # TensorFlow has read it
        return np.int32(1)
    return np.int32(orientation_of(image))


def opened(encoded, what):
    """The Pillow image in a string of bytes.

    Args:
        encoded: Bytes of the file.
        what: It is, for the message.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
        image.load()
    except UnidentifiedImageError:
        others = ", ".join(_FORMATS[2:])
        raise ValueError(
            f"The {what} is no PNG or JPEG file, and none of {others}"
        ) from None
    except Exception as error:  # each of Pillow's decoders has errors of its own
        raise ValueError(f"The {what} cannot be decoded: {error}") from error
    return image


def orientation_of(image):
    """EXIF's orientation of a Pillow image, 1 to 8; 1 if there is none."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # of a broken tag; the pixels are none the worse for it
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def turned(pixels, orientation):
    """Pixels (H, W, ...) as stored, turned upright.

    Args:
        pixels: An array.
        orientation: From 5 on rows are columns, 6 being a quarter turn clockwise.
    """
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def rgb(image):
    """uint8 (H, W, 3) of a Pillow image; 16 bit lose their lower eight, as in TensorFlow.

    Raises:
        ValueError: It has numbers of unknown range.
    """
    # Pillow has 16 bit PGM, and in some versions PNG, as 32 bit integers.
    wide = image.mode == "I" and image.format in ("PNG", "PPM")
    if wide or image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype("uint8")
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(
            "An image must have 8 or 16 bits a channel, as their range is known. "
            f"Received: {image.format} of the mode {image.mode!r}"
        )
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns where colours are transparent
    return np.asarray(image.convert("RGB"))
