"""Images and label maps in unusual formats: rotated, hidden, low bit depth, renamed."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_hybrid.data.segmentation import augment, class_names
from keras_hybrid.data.segmentation.dataset import decode_labels, decode_pair
from keras_hybrid.data.segmentation.layouts import open_dataset
from keras_hybrid.recipes import cityscapes
from trees import add_cityscapes, grey, halves, save

CLASS_OF = np.arange(256, dtype="int16")  # all values are classes
STREET = halves(7, 26)  # road and car


def batches(source):
    transform = augment.padded_to_multiple(1)
    return [(x.numpy()[0], y.numpy()[0]) for x, y in source.batches(1, transform)]


def encoded(array, kind="PNG", **kwargs):
    stream = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(stream, kind, **kwargs)
    return stream.getvalue()


def assert_rejected(folder, message, **kwargs):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        open_dataset(folder, **kwargs)
    assert "\n" not in str(error.value)


def rotated_pair(size, annotated):
    """An image with a white quarter, rotated by EXIF, its label map and its labels."""
    labels = np.zeros(size, "uint8")
    labels[: size[0] // 2, : size[1] // 2] = 1
    tags = Image.Exif()
    tags[0x0112] = 6
    stored = np.ascontiguousarray(np.rot90(labels))
    photograph = np.stack([stored * 255] * 3, -1)
    label_map = labels if annotated == "upright" else stored
    return encoded(photograph, exif=tags), encoded(label_map), labels


@pytest.mark.parametrize(
    ("size", "annotated"),
    [((64, 32), "upright"), ((64, 32), "stored"), ((32, 32), "upright")],
)
def test_image_and_label_map_are_rotated_together(size, annotated):
    """Both are upright; a square label map is assumed to be annotated upright."""
    image, label_map, expected = rotated_pair(size, annotated)
    both = decode_pair(image, label_map, CLASS_OF)
    np.testing.assert_array_equal(both[..., 0], expected * 255)
    np.testing.assert_array_equal(both[..., 3], expected)


def test_a_label_map_of_another_size_is_rejected():
    image, _, _ = rotated_pair((64, 32), "upright")
    with pytest.raises(ValueError, match="the same size. Received: 32x64 and 30x30"):
        decode_pair(image, encoded(np.zeros((30, 30), "uint8")), CLASS_OF)


def test_16_bit_images_are_scaled_to_8_bits(tmp_path):
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype("uint16")
    for split in ("train", "test"):
        save(tmp_path / split / "a.png", ramp)
        save(tmp_path / f"{split}annot" / "a.png", halves(3, 8, (32, 32)))
    ((image, _),) = batches(open_dataset(tmp_path).train)
    np.testing.assert_array_equal(image[..., 2], ramp >> 8)


MASK = np.arange(64).reshape(8, 8) % 2


def png_with_bits(bits):
    """A grey PNG of 8 x 8 pixels with few bits, which Pillow cannot write; its labels."""

    def chunk(name, data):
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    labels = np.arange(64).reshape(8, 8) % 2**bits
    each = np.arange(bits)[::-1]
    rows = np.packbits((labels[..., None] >> each & 1).reshape(8, -1), axis=1)
    header = struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks, labels


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_label_maps_with_few_bits_keep_their_values(bits):
    data, labels = png_with_bits(bits)
    np.testing.assert_array_equal(
        tf.io.decode_png(data)[..., 0], labels * 255 // (2**bits - 1)
    )
    np.testing.assert_array_equal(decode_labels(data), labels)


def tiff_with_bits(bits):
    """The same as a TIFF, uncompressed and in one strip."""
    _, labels = png_with_bits(bits)
    each = np.arange(bits)[::-1]
    pixels = np.packbits((labels[..., None] >> each & 1).reshape(8, -1)).tobytes()
    # ImageWidth, ImageLength, BitsPerSample, Compression, PhotometricInterpretation,
    # StripOffsets, SamplesPerPixel, RowsPerStrip, StripByteCounts
    entries = [(256, 8), (257, 8), (258, bits), (259, 1), (262, 1), (273, 8)]
    entries += [(277, 1), (278, 8), (279, len(pixels))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in entries)
    header = b"II*\0" + struct.pack("<I", 8 + len(pixels))
    end = struct.pack("<I", 0)
    return header + pixels + struct.pack("<H", len(entries)) + directory + end, labels


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_tiff_label_maps_with_few_bits_keep_their_values(bits):
    data, labels = tiff_with_bits(bits)
    np.testing.assert_array_equal(decode_labels(data), labels)


LABELS = {
    "1 bit PNG": encoded(Image.fromarray(MASK == 1)),
    "1 bit BMP": encoded(Image.fromarray(MASK == 1), "BMP"),
    "1 bit TIFF": encoded(Image.fromarray(MASK == 1), "TIFF", compression="group4"),
    "GIF": encoded(MASK.astype("uint8"), "GIF"),
    "BMP": encoded(MASK.astype("uint8"), "BMP"),
    "TIFF": encoded(MASK.astype("uint8"), "TIFF"),
    "16 bit PNG": encoded(MASK.astype("uint16")),
    "16 bit TIFF": encoded(MASK.astype(">u2"), "TIFF"),
    "32 bit TIFF": encoded(MASK.astype("int32"), "TIFF"),
}


@pytest.mark.parametrize("case", LABELS)
def test_label_maps_in_other_formats(case):
    np.testing.assert_array_equal(decode_labels(LABELS[case]), MASK)
    both = decode_pair(encoded(grey(9, (8, 8))), LABELS[case], CLASS_OF)
    np.testing.assert_array_equal(both[..., 3], MASK)


def test_label_values_0_and_255_are_kept():
    labels = (MASK * 255).astype("uint8")
    np.testing.assert_array_equal(decode_labels(encoded(labels)), labels)


def test_palette_label_maps_keep_their_indices():
    image = Image.fromarray(MASK.astype("uint8"), "P")
    image.putpalette([9, 9, 9, 200, 0, 0])
    for bits in (1, 8):
        np.testing.assert_array_equal(decode_labels(encoded(image, bits=bits)), MASK)


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        (encoded(MASK.astype("float32"), "TIFF"), "must hold integers.* float32"),
        (encoded(np.zeros((8, 8, 2), "uint8")), "one channel. Received: 2 channels"),
        (encoded(np.zeros((8, 8, 4), "uint8")), "one channel. Received: 4 channels"),
        (encoded(np.full((8, 8), 300, "uint16")), r"of the data set. Received: \[300\]"),
        (encoded(np.full((8, 8), -1, "int32"), "TIFF"), r"Received: \[-1\]"),
    ],
)
def test_invalid_label_maps_are_rejected(label_map, message):
    class_of = np.where(CLASS_OF > 250, -1, CLASS_OF)
    with pytest.raises(ValueError, match=message):
        decode_pair(encoded(grey(9, (8, 8))), label_map, class_of)


def cityscapes_tree(root):
    for split in ("train", "val"):
        add_cityscapes(root, split, [grey(1), grey(2)], [STREET] * 2)


def gta5_tree(root, labels=STREET):
    for i in range(3):
        save(root / f"images/{i}.png", grey(i))
        save(root / f"labels/{i}.png", labels)


def camvid_tree(root, labels=STREET % 11):
    for split in ("train", "test"):
        for i in range(2):
            save(root / split / f"{i}.png", grey(i))
            save(root / f"{split}annot" / f"{i}.png", labels)


@pytest.mark.parametrize("tree", [cityscapes_tree, gta5_tree, camvid_tree])
def test_hidden_files_are_ignored(tree, tmp_path):
    tree(tmp_path)
    before = open_dataset(tmp_path)
    for path in list(tmp_path.rglob("*.png")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7 Mac OS X")
        path.with_name(f".{path.name}").write_bytes(path.read_bytes())
        (path.parent.parent / ".AppleDouble").mkdir(exist_ok=True)
        (path.parent.parent / ".AppleDouble" / path.name).write_bytes(b"")
    data = open_dataset(tmp_path)
    assert (len(data.train), len(data.test)) == (len(before.train), len(before.test))
    assert len(batches(data.train)) == len(before.train)
    assert data.train.skipped == []


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".gif", ".jfif", ".JPG", ".tif"])
def test_images_with_other_suffixes_are_read(suffix, tmp_path):
    camvid_tree(tmp_path / "camvid")
    gta5_tree(tmp_path / "gta5")
    cityscapes_tree(tmp_path / "cityscapes")
    images = "camvid/train/1.png", "gta5/images/*", "cityscapes/leftImg8bit/*/*/*1_*"
    for path in [path for pattern in images for path in tmp_path.glob(pattern)]:
        image = Image.open(path)
        path.unlink()
        image.save(path.with_suffix(suffix))
    for label_map in tmp_path.glob("*/*annot/0.png"):
        Image.open(label_map).save(label_map.with_suffix(".gif"))
        label_map.unlink()
    for name, counts in (("camvid", (2, 2)), ("gta5", (2, 1)), ("cityscapes", (2, 2))):
        data = open_dataset(tmp_path / name)
        assert (len(data.train), len(data.test)) == counts
        assert len(batches(data.train)) == 2
        assert data.train.skipped == []


def test_unsupported_files_are_logged_once(tmp_path, caplog):
    camvid_tree(tmp_path)
    for name in ("2.heic", "3.heic", "notes.txt"):
        (tmp_path / "train" / name).write_bytes(b"")
    assert len(open_dataset(tmp_path).train) == 2
    (record,) = caplog.records
    assert ".webp" in record.message
    assert "notes.txt" in record.message
    assert record.message.count(".heic") == 1


NAMES = {
    "plain": (b"Void\nRoad\nCar\n", ("Road", "Car"), {0: 255, 1: 0, 2: 1}),
    "UTF-8 with a byte order mark": (
        "\ufeffVoid\r\nStra\u00dfe\r\nCar\r\n".encode(),
        ("Stra\u00dfe", "Car"),
        {0: 255, 1: 0, 2: 1},
    ),
    "UTF-16 of PowerShell": ("Void\r\nRoad".encode("utf-16"), ("Road",), {0: 255, 1: 0}),
    "empty line": (
        b"Void\nRoad\n  \nCar\n\n\n",
        ("Road", "class 2", "Car"),
        {0: 255, 1: 0, 2: 1, 3: 2},
    ),
    "empty first line": (b"\nRoad\n", ("class 0", "Road"), {0: 0, 1: 1}),
    "carriage returns": (b"Road\rVoid\rCar", ("Road", "Car"), {0: 0, 1: 255, 2: 1}),
    "two void lines": (b"Void\nRoad\nvoid", ("Road",), {0: 255, 1: 0, 2: 255}),
}


@pytest.mark.parametrize("case", NAMES)
def test_class_names_are_read_from_classes_txt(case, tmp_path):
    data, names, expected = NAMES[case]
    (tmp_path / "classes.txt").write_bytes(data)
    found, class_of = class_names.read(tmp_path / "classes.txt")
    assert found == names
    known = {value: int(c) for value, c in enumerate(class_of[:255]) if c != -1}
    assert known == expected
    assert class_of[255] == 255


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("Void\nStra\u00dfe\n".encode("latin-1"), "text in UTF-8. Received: line 2"),
        (b" \n\n", "Received: 0 names"),
        (b"Road\nCar\nRoad\n", "Received: 'Road' twice"),
        (b"".join(b"%d\n" % i for i in range(256)), "Received: 256 names"),
    ],
)
def test_an_invalid_classes_txt_is_rejected(data, message, tmp_path):
    camvid_tree(tmp_path)
    (tmp_path / "classes.txt").write_bytes(data)
    assert_rejected(tmp_path, f"classes.txt must .*{message}")


@pytest.mark.parametrize("values", [range(5), range(1, 9), range(19), [*range(12), 255]])
def test_consecutive_labels_need_a_classes_txt_in_the_gta5_layout(values, tmp_path):
    """Otherwise, three of 12 classes would be taken for road, sidewalk and building."""
    labels = np.resize(np.array(values, "uint8"), (32, 64))
    gta5_tree(tmp_path, labels)
    assert_rejected(
        tmp_path, rf"labels must hold ids of GTA5.*{values[0]} to .*classes\.txt"
    )
    names = [f"name {i}" for i in range(19)]
    (tmp_path / "classes.txt").write_text("\ufeff" + "\n".join(names), "utf-8")
    data = open_dataset(tmp_path)
    assert data.class_names == tuple(names)
    np.testing.assert_array_equal(batches(data.train)[0][1], labels)


def test_training_label_maps_without_any_class_are_rejected(tmp_path):
    gta5_tree(tmp_path / "gta5", halves(0, 5))
    assert_rejected(
        tmp_path / "gta5", "show two classes or more. Received: 2 .* no class at all"
    )
    camvid_tree(tmp_path / "camvid", halves(11, 255))
    assert_rejected(
        tmp_path / "camvid", "Received: 2 label maps that show no class at all"
    )


def test_training_label_maps_of_one_class_are_rejected_for_training(tmp_path):
    """They can be read, but a model cannot be trained on them."""
    camvid_tree(tmp_path, halves(0, 255))
    assert len(open_dataset(tmp_path).train) == 2
    assert_rejected(
        tmp_path, "Received: 2 .* show only 'Sky'. Pixels of value 255", for_training=True
    )
    paths = {"data_dir": str(tmp_path), "workdir": str(tmp_path / "run")}
    with pytest.raises(ValueError, match="show only 'Sky'"):
        cityscapes.main(cityscapes.Config(method="none", **paths))
    assert not (tmp_path / "run").exists()


def test_a_rare_second_class_is_found(tmp_path):
    """All label maps are searched before the data are said to have one class."""
    for i in range(40):
        save(tmp_path / f"train/{i}.png", grey(i))
        save(tmp_path / f"trainannot/{i}.png", halves(0, 4 if i == 23 else 255))
    save(tmp_path / "test/0.png", grey(0))
    save(tmp_path / "testannot/0.png", halves(0, 0))
    data = open_dataset(tmp_path, for_training=True)
    assert data.train.shown == (0, 4)


def test_test_label_maps_without_any_class_are_logged(tmp_path, caplog):
    camvid_tree(tmp_path)
    for path in (tmp_path / "testannot").iterdir():
        save(path, halves(11, 255))
    assert len(open_dataset(tmp_path).test) == 2
    assert "No pixel of the 2 test images" in caplog.text
