"""Photographs of a folder as calibration images."""

import numpy as np
import pytest
from absl import logging
from PIL import Image

from keras_hybrid.export.photographs import photographs

RED, BLUE = (200, 10, 20), (10, 20, 200)


def save(path, colours=(RED, BLUE), size=20, mode="RGB", **kwargs):
    """Two squares side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.repeat(np.repeat(np.array([colours], "uint8"), size, 0), size, 1)
    Image.fromarray(pixels).convert(mode).save(path, **kwargs)


def test_reads_subfolders_and_any_case_but_nothing_hidden(tmp_path):
    for name in ("a.png", "b.JPG", "sub/c.jpeg", "sub/sub/d.webp", "e.bmp", "f.Png"):
        save(tmp_path / name)
    save(tmp_path / ".thumbnails" / "g.png")
    (tmp_path / "._a.png").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    (tmp_path / "notes.txt").write_text("no image")
    images = photographs(tmp_path, (8, 16, 3), 100)
    assert images.shape == (6, 8, 16, 3)
    assert images.dtype == np.uint8
    assert np.abs(images[:, :, :7] - np.float32(RED)).max() < 12
    assert np.abs(images[:, :, 9:] - np.float32(BLUE)).max() < 12
    assert photographs(tmp_path, (8, 16, 3), 4).shape[0] == 4


def test_follows_links_once(tmp_path):
    save(tmp_path / "elsewhere" / "a.png")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("first", "second"):
        (folder / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(folder)
    assert len(photographs(folder, (8, 16, 3), 100)) == 1


def test_crops_to_the_middle(tmp_path):
    save(tmp_path / "a.png")  # 40x20: the middle square is half red, half blue
    (image,) = photographs(tmp_path, (10, 10, 3), 1)
    assert (image[:, :4] == RED).all()
    assert (image[:, 6:] == BLUE).all()


def test_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees: what is left comes on top
    save(tmp_path / "a.png", exif=exif)
    (image,) = photographs(tmp_path, (16, 8, 3), 1)
    assert (image[:7] == RED).all()
    assert (image[9:] == BLUE).all()


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "1", "CMYK", "LA"])
def test_each_kind_of_file_for_each_kind_of_student(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    save(tmp_path / f"a.{suffix}", colours=((0, 0, 0), (255, 255, 255)), mode=mode)
    for channels in (1, 3, 4):
        (image,) = photographs(tmp_path, (8, 16, channels), 1)
        assert image.shape == (8, 16, channels)
        assert (image[:, :7, :3] == 0).all()
        assert (image[:, 9:] == 255).all()


def test_grey_is_that_of_the_photograph(tmp_path):
    save(tmp_path / "a.png", colours=(RED, RED))
    (image,) = photographs(tmp_path, (4, 4, 1), 1)
    assert (image == 68).all()  # 0.299 * 200 + 0.587 * 10 + 0.114 * 20 = 67.95


def test_16_bits_keep_their_range(tmp_path):
    pixels = np.array([[0, 300, 32768, 65535]] * 4, "uint16")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (image,) = photographs(tmp_path, (4, 4, 1), 1)
    np.testing.assert_array_equal(image[0, :, 0], [0, 1, 128, 255])


def test_transparent_palette(tmp_path):
    save(tmp_path / "a.png", mode="P", transparency=bytes([0, 255]))
    assert photographs(tmp_path, (4, 4, 3), 1).shape == (1, 4, 4, 3)


def test_a_broken_photograph_is_skipped_with_a_warning(tmp_path, monkeypatch):
    warned = []
    monkeypatch.setattr(
        logging, "warning", lambda text, *args: warned.append(text % args)
    )
    save(tmp_path / "a.jpg", size=200)
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    assert len(photographs(tmp_path, (8, 8, 3), 100)) == 1
    assert len(warned) == 3
    for name in ("cut.jpg", "empty.png", "text.png"):
        assert any(str(tmp_path / name) in line and "\n" not in line for line in warned)


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="nowhere, not a folder$"):
        photographs(tmp_path / "nowhere", (8, 8, 3), 1)
    with pytest.raises(ValueError, match=r"no \.jpg, .*\.pgm file in it$"):
        photographs(tmp_path, (8, 8, 3), 1)
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.png: The image is not a PNG"):
        photographs(tmp_path, (8, 8, 3), 1)
    with pytest.raises(ValueError, match=r"1, 3 or 4 channels.*\(8, 8, 2\)"):
        photographs(tmp_path, (8, 8, 2), 1)
