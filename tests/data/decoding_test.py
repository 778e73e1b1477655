"""Image decoding compared with Pillow and with hand-computed values."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from keras_hybrid.data import decoding
from keras_hybrid.data.detection import augment
from keras_hybrid.data.detection.layouts import open_dataset

# Four grey levels in whole JPEG blocks; wider than high.
UPRIGHT = np.zeros((16, 32, 3), "uint8")
UPRIGHT[:8, :16], UPRIGHT[:8, 16:], UPRIGHT[8:, :16] = 240, 80, 160
# EXIF orientation -> stored pixels that are displayed as `UPRIGHT` (EXIF 2.32, 4.6.4).
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: np.rot90(UPRIGHT, 2),
    4: UPRIGHT[::-1],
    5: UPRIGHT.swapaxes(0, 1),
    6: np.rot90(UPRIGHT, 1),  # displayed after a clockwise quarter turn
    7: np.rot90(UPRIGHT, 2).swapaxes(0, 1),
    8: np.rot90(UPRIGHT, -1),
}


def encoded(pixels, kind, **kwargs):
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, kind, **kwargs)
    return stream.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def assert_upright(data, tolerance=0):
    for image in (decoding.decode_image(data), decoding._by_pillow(data)):
        difference = np.abs(np.int32(image) - UPRIGHT)
        assert difference.mean() <= tolerance


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied_in_every_format(orientation):
    stored = np.ascontiguousarray(STORED[orientation])
    for kind, kwargs in (
        ("JPEG", {"quality": 95}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
    ):
        data = encoded(stored, kind, exif=exif(orientation), **kwargs)
        assert_upright(data, 2 if kind == "JPEG" else 0)
        shown = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert_upright(encoded(shown, "PNG"), 2 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_exif_orientation_of_an_eager_tensor(kind):
    """In eager mode, TensorFlow passes the tensor to Python as an array of objects."""
    stored = np.ascontiguousarray(STORED[6])
    data = tf.constant(encoded(stored, kind, quality=95, exif=exif(6)))
    difference = np.int32(decoding.decode_image(data)) - UPRIGHT
    assert np.abs(difference).mean() <= 2


def test_exif_orientation_in_a_graph_and_after_other_segments():
    """The EXIF segment may come after other segments."""
    stored = np.ascontiguousarray(STORED[6])
    data = encoded(stored, "JPEG", quality=95, exif=exif(6))
    comment = b"\xff\xfe\x27\x10" + bytes(9998)
    start = data.index(b"\xff\xe1")
    data = data[:start] + comment + data[start:]
    decode = tf.function(
        decoding.decode_image, input_signature=[tf.TensorSpec((), "string")]
    )
    assert decode(data).shape == UPRIGHT.shape
    assert_upright(data, 2)


def test_orientation_in_xmp_and_in_imagemagicks_exif_profile():
    """Pillow's `ImageOps.exif_transpose` handles both."""
    stored = np.ascontiguousarray(STORED[8])
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="8"/></x:xmpmeta>'
    assert_upright(encoded(stored, "JPEG", quality=95, xmp=xmp), 2)
    text = exif(8).tobytes().hex()
    info = PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(text) // 2:8}\n{text}", True)
    assert_upright(encoded(stored, "PNG", pnginfo=info))


@pytest.mark.parametrize("tags", [exif(0), exif(9), exif(65535), b"Exif\0\0broken"])
def test_invalid_orientations_are_ignored(tags):
    data = encoded(UPRIGHT, "JPEG", quality=95, exif=tags)
    assert_upright(data, 2)


def test_a_comment_that_mentions_exif_is_not_an_orientation():
    """Pillow is consulted and finds no orientation."""
    assert_upright(encoded(UPRIGHT, "JPEG", quality=95, comment=b"exif Exif eXIf"), 2)


def test_boxes_refer_to_the_upright_image(tmp_path):
    """A white person at x 20..40 and y 10..80 of the upright image."""
    upright = np.zeros((100, 60, 3), "uint8")
    upright[10:80, 20:40] = 255
    record = {"image_id": 1, "category_id": 1, "bbox": [20, 10, 20, 70]}
    images = [{"id": 1, "file_name": "a.png", "width": 60, "height": 100}]
    categories = [{"id": 1, "name": "person"}]
    content = {"images": images, "annotations": [record], "categories": categories}
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
        stored.save(tmp_path / split / "a.png", exif=exif(6))
        (tmp_path / f"people_{split}.json").write_text(json.dumps(content))
    train = open_dataset(tmp_path, min_height=10).train
    ((image, truth),) = train.batches(1, augment.enlarged(1.0, 1))
    np.testing.assert_array_equal(image[0], upright)
    assert truth["boxes"][0, 0].numpy().tolist() == [20, 10, 40, 80]


RAMP = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype("uint16")


@pytest.mark.parametrize(
    ("kind", "dtype"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2"), ("PPM", "<u2")]
)
def test_16_bit_grey_is_scaled_to_8_bits(kind, dtype):
    """Both TensorFlow and the decoder by Pillow keep the upper byte."""
    data = encoded(RAMP.astype(dtype), kind)
    for image in (decoding.decode_image(data), decoding._by_pillow(data)):
        np.testing.assert_array_equal(image, np.stack([RAMP >> 8] * 3, -1))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_with_any_number_of_channels(channels):
    pixels = np.stack([RAMP, RAMP[::-1], RAMP.T, RAMP][:channels], -1)
    data = tf.io.encode_png(pixels).numpy()
    colours = pixels[..., :3] if channels > 2 else pixels[..., :1].repeat(3, -1)
    for image in (decoding.decode_image(data), decoding._by_pillow(data)):
        np.testing.assert_array_equal(image, colours >> 8)


MODES = {
    "WebP": ("RGB", "WEBP", {"lossless": True}),
    "WebP with alpha": ("RGBA", "WEBP", {"lossless": True}),
    "BMP": ("RGB", "BMP", {}),
    "palette BMP": ("P", "BMP", {}),
    "GIF": ("P", "GIF", {}),
    "palette PNG with transparency": (
        "P",
        "PNG",
        {"transparency": bytes(range(4))},
    ),
    "TIFF": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "CMYK TIFF": ("CMYK", "TIFF", {}),
    "PPM": ("RGB", "PPM", {}),
}


@pytest.mark.parametrize("case", MODES)
def test_every_format_is_decoded(case):
    mode, kind, kwargs = MODES[case]
    image = Image.fromarray(UPRIGHT)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    assert_upright(encoded(image, kind, **kwargs))


def test_the_first_of_several_frames_is_decoded():
    others = [Image.new("RGB", (32, 16))]
    image = Image.fromarray(UPRIGHT)
    for kind in ("GIF", "TIFF", "PNG"):
        assert_upright(encoded(image, kind, save_all=True, append_images=others))


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_pixels_of_unknown_range_are_rejected(dtype):
    data = encoded(np.zeros((4, 4), dtype), "TIFF")
    with pytest.raises(ValueError, match="8 or 16 bits per channel.* TIFF of mode"):
        decoding._by_pillow(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files_raise_value_errors(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8")
    data = encoded(noise, kind)
    for part in (b"", data[:20], data[: len(data) // 2]):
        with pytest.raises(
            ValueError, match="^The image (cannot be|is not a PNG or JPEG)"
        ):
            decoding.opened(part, "image")
