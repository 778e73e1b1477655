"""Decode images to upright RGB pixels.

Cameras store pixels as the sensor reads them, and the orientation in an EXIF tag.
Annotators see the upright image, so boxes and label maps refer to that one.
"""

import io
import re
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from keras_hybrid.data.transforms import cut
from keras_hybrid.training.types import Tensor

_FORMATS = "JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright, see `turned`
# Each file with an orientation contains one of these: Exif in JPEG, eXIf in PNG ("Raw
# profile type exif" in PNGs by ImageMagick), or the name of the tag in XMP.
_MARKS = b"xif", b"XIf", b"tiff:Orientation"
# Bytes of a JPEG that are searched: only a profile or a comment can precede EXIF.
_HEAD = 1 << 14
MARKED = r"\C*(?:xif|XIf|tiff:Orientation)\C*"


def decode_image(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes an image to upright RGB, uint8 (H, W, 3).

    Grey, CMYK, palette, 16-bit and transparent images become RGB too. TensorFlow decodes
    JPEG and PNG, and Pillow all other formats.

    Args:
        encoded: Encoded image, a scalar string tensor.
    """
    is_png = tf.strings.substr(encoded, 0, 4) == b"\x89PNG"
    image = tf.cond(
        tf.io.is_jpeg(encoded) | is_png,
        lambda: _by_tensorflow(encoded, is_png),
        lambda: of_bytes(_by_pillow, "uint8", encoded),
    )
    return tf.ensure_shape(image, (None, None, 3))


def decode_part(
    encoded: tf.Tensor, box_of: Callable[[tf.Tensor], tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes the part of an image inside a box, equal to that part of `decode_image`.

    Of a JPEG that `can_be_cropped`, only this part is decoded.

    Args:
        encoded: Encoded image, a scalar string tensor.
        box_of: Function from the image size (height, width) in pixels, int32 (2,), to a
            box as in `Transform`.

    Returns:
        (uint8 (h, w, 3), the box).

    Raises:
        tf.errors.OpError: If the image cannot be decoded.
    """

    def part():
        size = tf.io.extract_jpeg_shape(encoded)[:2]
        box = box_of(size)
        return crop_jpeg(encoded, size, box), box

    return tf.cond(
        can_be_cropped(encoded), part, lambda: part_of(decode_image(encoded), box_of)
    )


def part_of(
    image: Tensor, box_of: Callable[[tf.Tensor], tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts a box out of an image, or of several of the same size: (pixels, the box)."""
    box = box_of(tf.shape(tf.nest.flatten(image)[0])[:2])
    return cut(image, box), box


def can_be_cropped(encoded: tf.Tensor) -> tf.Tensor:
    """Whether an image is a complete JPEG whose pixels are stored upright.

    The end marker is checked here because libjpeg notices that the end is missing only
    if it has to decode it.
    """
    length = tf.strings.length(encoded)
    ends = tf.strings.substr(encoded, -tf.minimum(length, 2), 2) == b"\xff\xd9"
    return tf.io.is_jpeg(encoded) & ends & (_orientation(encoded, False) == 1)


def crop_jpeg(
    encoded: tf.Tensor, size: tf.Tensor, box: tf.Tensor, dct_method: str = ""
) -> tf.Tensor:
    """Decodes the part inside a box of a JPEG that `can_be_cropped`.

    The result is bit-identical to that part of the whole image. Where chroma is stored at
    half resolution, a pixel depends on its neighbours, so a margin of one pixel is
    decoded on each side.

    Args:
        encoded: Encoded image, a scalar string tensor.
        size: Image size (height, width) in pixels, int32 (2,).
        box: Box as in `Transform`.
        dct_method: Method as in `tf.io.decode_jpeg`; Pillow uses `"INTEGER_ACCURATE"`.

    Returns:
        uint8 (h, w, 3).

    Raises:
        tf.errors.OpError: If the image cannot be decoded.
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
    """Orientation of a JPEG or PNG as in `orientation_of`, int32."""
    # A JPEG without these marks needs no Python, where only one thread runs at a time.
    head = tf.strings.substr(encoded, 0, _HEAD)
    return tf.cond(
        is_png | tf.strings.regex_full_match(head, MARKED),
        lambda: of_bytes(_by_marks, "int32", encoded),
        lambda: 1,
    )


def of_bytes(
    function: Callable[..., np.ndarray | np.generic], dtype: str, *encoded: tf.Tensor
) -> tf.Tensor:
    """Applies a Python function of bytes to scalar string tensors.

    A `ValueError` of the function becomes TensorFlow's, since TensorFlow writes the
    traceback of each exception of a Python function to standard error.

    Raises:
        tf.errors.InvalidArgumentError: The function raised a `ValueError`; see `message`.
    """

    def of_numpy(*encoded):
        try:
            # In eager mode TensorFlow passes arrays of objects.
            return function(*(np.asarray(one, object).item() for one in encoded)), b""
        except ValueError as error:
            return np.zeros((), dtype), str(error).encode()

    encoded = [tf.convert_to_tensor(one) for one in encoded]
    result, failure = tf.numpy_function(
        of_numpy, encoded, [dtype, "string"], stateful=False
    )
    passed = tf.raw_ops.Assert(condition=failure == b"", data=[failure])
    with tf.control_dependencies([passed]):
        return tf.identity(result)


def message(error: tf.errors.OpError) -> str:
    """What went wrong, without the names of TensorFlow's operators."""
    text = re.sub(r"\{\{.*?\}\} ?|\[Op:.*", "", error.message).strip()
    failed = re.fullmatch(r"assertion failed: \[(.*)\]", text, re.DOTALL)
    return failed[1] if failed else text


def _by_pillow(encoded):
    image = opened(encoded, "image")
    return turned(rgb(image), orientation_of(image))


def _by_marks(encoded):
    if not any(mark in encoded for mark in _MARKS):
        return np.int32(1)  # Pillow would decode all of a PNG to find this out
    try:
        image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
    except Exception:  # TensorFlow decides whether it can be decoded
        return np.int32(1)
    return np.int32(orientation_of(image))


def opened(encoded: bytes, what: str) -> Image.Image:
    """Decodes an image with Pillow.

    Args:
        encoded: Content of the file.
        what: Noun for the file in error messages, such as "image".

    Raises:
        ValueError: If the file cannot be read.
    """
    try:
        image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
        image.load()
    except UnidentifiedImageError:
        others = ", ".join(_FORMATS[2:])
        raise ValueError(
            f"The {what} is not a PNG or JPEG file, nor any of {others}"
        ) from None
    except Exception as error:  # each of Pillow's decoders raises its own errors
        raise ValueError(f"The {what} cannot be decoded: {error}") from error
    return image


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation of a Pillow image, 1 to 8; 1 if it has none."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # the tag is broken, but the pixels are intact
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns pixels (H, W, ...) from their stored orientation upright.

    Args:
        pixels: Pixels as stored.
        orientation: EXIF orientation, 1 to 8. From 5 on rows and columns are swapped; 6
            needs a quarter turn clockwise.
    """
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def rgb(image: Image.Image) -> np.ndarray:
    """Converts a Pillow image to RGB, uint8 (H, W, 3).

    Images of 16 bits per channel keep the upper eight, as in TensorFlow.

    Raises:
        ValueError: If the range of the pixel values is unknown.
    """
    # Pillow reads 16-bit PGM, and in some versions 16-bit PNG, as 32-bit integers.
    wide = image.mode == "I" and image.format in ("PNG", "PPM")
    if wide or image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype("uint8")
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(
            "An image must have 8 or 16 bits per channel, whose range is known. "
            f"Received: {image.format} of mode {image.mode!r}"
        )
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns if palette colours are transparent
    return np.asarray(image.convert("RGB"))
