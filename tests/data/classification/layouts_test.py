"""Classification data on disk: class folders, tensorflow-datasets and broken files."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import ExifTags, Image

import runs
from keras_hybrid.data import sources
from keras_hybrid.data.classification import augment
from keras_hybrid.data.classification.layouts import open_dataset
from keras_hybrid.data.sources import EncodedSource

CLASSES = "Katze", "犬"


def save_image(path, value=100, mode="RGB", size=(9, 7)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", size, value).convert(mode)
    image.save(path, quality=100) if path.suffix == ".jpg" else image.save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes with grey levels 10, 20, ..., 60 in train and one image each in val."""
    for i in range(6):
        save_image(tmp_path / "train" / CLASSES[i // 3] / f"{i}.jpg", 10 * (i + 1))
    for name in CLASSES:
        save_image(tmp_path / "val" / name / "0.png", 200)
    return tmp_path


def levels(batches):
    """One grey level (to the nearest 10) and label for each image."""
    return [
        (round(float(tf.reduce_mean(image)), -1), int(label))
        for images, labels in batches
        for image, label in zip(images, labels)
    ]


def evaluation_batches(source, batch_size=2):
    return source.batches(batch_size, augment.resize_center_crop(4))


def epochs(source, first, last, batch_size=2, seed=0):
    """The levels and labels of each epoch."""
    batches = source.training_batches(
        batch_size, augment.resize_center_crop(4), seed, range(first, last)
    )
    seen = levels(batches)
    length = len(seen) // (last - first)
    return [seen[i * length : (i + 1) * length] for i in range(last - first)]


def test_autotuning_of_the_input_pipeline_is_off(folder):
    source = open_dataset(folder).train
    transform = augment.resize_center_crop(4)
    training = source.training_batches(2, transform, 0, range(1))
    for batches in (source.batches(2, transform), training):
        assert batches.options().autotune.enabled is False


def test_classes_from_folder_names(folder):
    data = open_dataset(folder)
    assert data.class_names == CLASSES
    assert (len(data.train), len(data.test)) == (6, 2)
    assert data.image_size is None
    expected = [(10.0 * (i + 1), i // 3) for i in range(6)]
    assert levels(evaluation_batches(data.train)) == expected
    assert levels(evaluation_batches(data.test)) == [(200, 0), (200, 1)]


def test_each_epoch_is_shuffled_and_reproducible_from_the_seed(folder):
    train = open_dataset(folder).train
    first, second = epochs(train, 0, 2)
    assert sorted(first) == sorted(second) == [(10.0 * (i + 1), i // 3) for i in range(6)]
    assert first != second
    assert epochs(open_dataset(folder).train, 0, 2) == [first, second]
    assert epochs(train, 0, 2, seed=1) != [first, second]


def test_epoch_order_does_not_depend_on_earlier_epochs(folder):
    train = open_dataset(folder).train
    tf.random.set_seed(5)
    whole = epochs(train, 0, 5)
    assert epochs(train, 3, 5) == whole[3:]


def test_the_last_partial_batch_is_dropped_in_training_only(folder):
    train = open_dataset(folder).train
    assert len(epochs(train, 0, 1, batch_size=4)[0]) == 4
    assert len(levels(evaluation_batches(train, batch_size=4))) == 6


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "I;16", "1"])
def test_images_of_every_mode_are_converted_to_rgb(mode, folder):
    path = folder / "val" / CLASSES[0] / ("0.jpg" if mode == "CMYK" else "0.png")
    (folder / "val" / CLASSES[0] / "0.png").unlink()
    path.unlink(missing_ok=True)
    if mode == "I;16":
        Image.fromarray(np.full((7, 9), 200 * 257, "uint16")).save(path)
    else:
        save_image(path, 255 if mode == "1" else 200, mode)
    data = open_dataset(folder)
    level = 260 if mode == "1" else 200  # 255 to the nearest 10
    assert levels(evaluation_batches(data.test))[0] == (level, 0)
    assert data.test.skipped == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([str(i) for i in range(12)], [str(i) for i in range(12)]),
        (["10", "2", "01", "1"], ["01", "1", "2", "10"]),
        (["1", "-1", "0"], ["-1", "0", "1"]),
        (["10", "2", "1.5"], ["1.5", "10", "2"]),
        (["10", "9", "cat"], ["10", "9", "cat"]),
    ],
)
def test_integer_class_names_are_sorted_as_numbers(names, expected, tmp_path):
    for split in ("train", "val"):
        for name in names:
            save_image(tmp_path / split / name / "0.png", 10 * (1 + names.index(name)))
    data = open_dataset(tmp_path)
    assert list(data.class_names) == expected
    for level, label in levels(evaluation_batches(data.test)):
        assert names[int(level / 10) - 1] == expected[label]


SUFFIXES = ".webp", ".bmp", ".gif", ".jfif", ".jpe", ".TIF", ".ppm"


def test_images_with_other_suffixes_are_read(folder):
    for i, suffix in enumerate(SUFFIXES):
        save_image(folder / "val" / CLASSES[1] / f"{i}{suffix}", 10 * (i + 1), "RGB")
    data = open_dataset(folder)
    seen = levels(evaluation_batches(data.test))
    assert sorted(seen[1:]) == [*((10.0 * (i + 1), 1) for i in range(7)), (200, 1)]
    assert data.test.skipped == []


def test_a_broken_image_with_another_suffix_is_skipped_and_logged(folder, caplog, capfd):
    save_image(folder / "val" / CLASSES[1] / "1.png", 100)
    broken = folder / "val" / CLASSES[1] / "2.webp"
    broken.write_bytes(b"RIFF\x10\0\0\0WEBPVP8 broken")
    test = open_dataset(folder).test
    assert len(levels(evaluation_batches(test))) == 3
    assert test.skipped == [str(broken)]
    assert f"{broken}: The image cannot be decoded: could not create" in caplog.text
    assert "Traceback" not in caplog.text + capfd.readouterr().err


def test_unsupported_files_are_logged_once(folder, caplog):
    for name in CLASSES:
        for file in ("1.heic", "._1.jpg", ".DS_Store"):
            (folder / "train" / name / file).write_bytes(b"")
    assert len(open_dataset(folder).train) == 6
    (record,) = caplog.records
    assert record.message.count(".heic") == 1
    assert ".jpg, " not in record.message


def test_exif_orientation_is_applied(folder):
    """The image is stored rotated by 90 degrees, with EXIF orientation 6."""
    upright = np.zeros((40, 20, 3), "uint8")
    upright[:20] = 200
    tags = Image.Exif()
    tags[0x0112] = 6
    path = folder / "train" / CLASSES[0] / "0.jpg"
    stored = np.ascontiguousarray(np.rot90(upright))
    Image.fromarray(stored).save(path, exif=tags, quality=100)
    (image, _), *_ = evaluation_batches(open_dataset(folder).train, 1)
    columns = np.mean(image[0, ..., 0], axis=0)
    np.testing.assert_allclose(columns, columns[0], atol=2)
    assert np.mean(image[0, 0]) > 190 > 10 > np.mean(image[0, -1])


def test_a_broken_image_is_skipped_and_replaced_in_training(folder, caplog):
    broken = folder / "train" / CLASSES[1] / "4.jpg"
    broken.write_bytes(broken.read_bytes()[:50])
    train = open_dataset(folder).train
    assert [label for _, label in levels(evaluation_batches(train))] == [0, 0, 0, 1, 1]
    assert train.skipped == [str(broken)]
    assert str(broken) in caplog.text
    # In training, another image takes its place, so that the epoch keeps its length.
    three = epochs(train, 0, 3)
    assert [len(seen) for seen in three] == [6, 6, 6]
    assert all(50 not in dict(seen) for seen in three)
    assert train.skipped == [str(broken)]


def test_a_deleted_or_empty_image_is_skipped(folder):
    train = open_dataset(folder).train
    (folder / "train" / CLASSES[0] / "0.jpg").unlink()
    (folder / "train" / CLASSES[0] / "1.jpg").write_bytes(b"")
    assert [level for level, _ in levels(evaluation_batches(train))] == [30, 40, 50, 60]
    assert len(train.skipped) == 2


def device_batches(folder, first, last, machines=2, devices=1):
    """The epochs of each machine: levels and labels of each batch of a device."""
    seen = []
    for machine in range(machines):
        source = open_dataset(folder).train
        context = tf.distribute.InputContext(machines, machine, machines * devices)
        batches = source.training_batches(
            4, augment.random_resized_crop_flip(4), 0, range(first, last), context
        )
        seen.append([levels([batch]) for batch in batches])
        assert batches.cardinality() == len(seen[-1]) == (last - first) * devices
    return seen


@pytest.mark.parametrize(("machines", "devices"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_each_batch_is_divided_among_devices(machines, devices, folder):
    alone = device_batches(folder, 1, 4, machines=1)[0]
    together = device_batches(folder, 1, 4, machines, devices)
    for step, whole in enumerate(alone):
        parts = [
            part
            for machine in together
            for part in machine[step * devices : (step + 1) * devices]
        ]
        assert {len(part) for part in parts} == {4 // machines // devices}
        assert sorted(sum(parts, [])) == sorted(whole)


def test_broken_images_do_not_shorten_any_machines_epoch(folder):
    """Two thirds of a machine's images may be broken; it reads others instead."""
    for name, i in ((0, 0), (0, 1), (1, 4)):
        (folder / "train" / CLASSES[name] / f"{i}.jpg").write_bytes(b"no image")
    for machine in device_batches(folder, 0, 6):
        assert [len(batch) for batch in machine] == [2] * 6
        assert {level for batch in machine for level, _ in batch} == {30, 40, 60}


def test_a_batch_size_not_divisible_by_devices_is_rejected(folder):
    context = tf.distribute.InputContext(2, 0, 2)
    with pytest.raises(ValueError, match="divisible"):
        open_dataset(folder).train.training_batches(
            3, augment.resize_center_crop(4), 0, range(1), context
        )


def test_reading_stops_when_most_images_are_broken(folder, monkeypatch):
    # pytest-xdist cannot report names that are not UTF-8.
    monkeypatch.setattr(sources.logging, "warning", lambda *args: None)
    for path in sorted((folder / "train").glob("*/*.jpg"))[1:]:
        path.write_bytes(b"no image")
        path.rename(os.fsdecode(os.fsencode(path.with_suffix("")) + b"]\xff.jpg"))
    train = open_dataset(folder).train
    with pytest.raises(tf.errors.InvalidArgumentError) as stopped:
        levels(evaluation_batches(train))
    assert len(train.skipped) == 4
    assert sources.too_many_unreadable(stopped.value) == (
        "More than half of the 6 images cannot be read, such as "
        f"{train.skipped[0].encode(errors='replace').decode()}. "
        "Are they JPEG, PNG or a similar format?"
    )
    assert sources.too_many_unreadable(ValueError("another")) is None


_READING = """
import sys
import keras_hybrid
import tensorflow as tf
from keras_hybrid.data.classification import augment
from keras_hybrid.data.sources import EncodedSource

(cpu,) = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
photograph = tf.io.read_file(sys.argv[1])
examples = tf.data.Dataset.from_tensors((b"", photograph, 0)).repeat(512)
source = EncodedSource(lambda seed: examples, 512)

def batches(context=None):
    return source.batches(64, augment.resize_center_crop(8))
"""
_IN_A_VARIABLE = """
iterator = iter(batches())
next(iterator)
"""
_ON_TWO_DEVICES = """
strategy = tf.distribute.MirroredStrategy()
iterator = iter(strategy.distribute_datasets_from_function(batches))
next(iterator)
"""
_IN_A_TRACEBACK = """
def read():
    iterator = iter(batches())
    next(iterator)
    resource = tf.nest.flatten(iterator, expand_composites=True)  # as in a step of `fit`
    raise ValueError("while reading")

read()
"""


@pytest.mark.parametrize(
    ("iterator_is", "message"),
    [
        (_IN_A_VARIABLE, ""),
        (_ON_TWO_DEVICES, ""),
        (_IN_A_TRACEBACK, "ValueError: while reading\n"),
    ],
    ids=["variable", "devices", "traceback"],
)
def test_python_exits_while_photographs_are_being_read(iterator_is, message, tmp_path):
    """Those with EXIF data enter Python, and TensorFlow's threads would wait for it."""
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1500, 3), "uint8")
    Image.fromarray(noise).save(tmp_path / "photograph.jpg", exif=turned)
    run = subprocess.run(
        [sys.executable, "-c", _READING + iterator_is, tmp_path / "photograph.jpg"],
        env={**os.environ, **runs.PATH},
        timeout=120,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stderr.endswith(message)
    assert run.returncode == bool(message)


@pytest.mark.parametrize("part", ["train", "val"])
def test_images_of_which_none_can_be_read_are_rejected_before_training(part, folder):
    for path in (folder / part).glob("*/*"):
        path.write_bytes(b"no image")
    count = {"train": 6, "val": 2}[part]
    tried = f"{count} of {count} images were tried, and none can be read"
    message = rf"^{tried}, such as .*/{part}/.*/0\.\w+: The image is not [^\n]*$"
    assert_rejected(folder, message, ValueError)


def assert_rejected(data_dir, message, error=FileNotFoundError):
    with pytest.raises(error, match=message):
        open_dataset(data_dir)


@pytest.mark.parametrize("name", [b"k\xe4fer", b"one\ntwo"])
def test_a_class_that_is_no_line_of_a_text_file_is_rejected(name, folder):
    """As folders of old archives are, in Latin-1."""
    path = os.path.join(os.fsencode(folder / "train"), name)
    os.mkdir(path)
    shutil.copy(folder / "train" / CLASSES[0] / "0.jpg", os.path.join(path, b"0.jpg"))
    with pytest.raises(ValueError, match="must have names in UTF-8, each of one line"):
        open_dataset(folder)


def test_a_missing_folder_is_rejected(tmp_path):
    assert_rejected(
        tmp_path / "none", "`data_dir` must be an .npz file or a folder.*train/CLASS/"
    )


def test_an_empty_folder_is_rejected(tmp_path):
    assert_rejected(tmp_path, "known layout. Received: .* with nothing. Expected")


def test_a_folder_without_images_is_rejected(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "val" / "cat").mkdir(parents=True)
    assert_rejected(tmp_path, "train must hold class folders of .*Received: 'cat'")


def test_a_class_without_images_is_rejected(folder):
    (folder / "train" / "empty").mkdir()
    assert_rejected(folder, "Received: 'empty' without any", ValueError)


def test_a_validation_class_missing_from_training_is_rejected(folder):
    save_image(folder / "val" / "zebra" / "0.jpg")
    assert_rejected(folder, "must also be in .*Received: 'zebra'", ValueError)


def test_a_single_class_is_rejected(tmp_path):
    for split in ("train", "val"):
        save_image(tmp_path / split / "cat" / "0.jpg")
    assert_rejected(
        tmp_path, "train must hold .* at least two classes. Received: 'cat'", ValueError
    )


def test_unprepared_imagenet_shows_the_tfds_command(tmp_path):
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(b"")
    assert_rejected(tmp_path, "tfds build imagenet2012")


@pytest.fixture
def imagenet2012(tmp_path):
    """A tiny data set named imagenet2012, written by tensorflow-datasets."""

    class Imagenet2012(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("5.1.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=CLASSES),
                "file_name": tfds.features.Text(),
            }
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self.examples(6), "validation": self.examples(2)}

        def examples(self, count):
            for i in range(count):
                image = np.full((7, 9, 3), 10 * (i + 1), "uint8")
                yield i, {"image": image, "label": i % 2, "file_name": f"{i}.JPEG"}

        def _generate_examples(self):
            raise AssertionError("`examples` does it")

    Imagenet2012(data_dir=tmp_path).download_and_prepare()
    return tmp_path


def test_imagenet_prepared_by_tensorflow_datasets(imagenet2012):
    data = open_dataset(imagenet2012)
    assert data.class_names == CLASSES
    assert (len(data.train), len(data.test)) == (6, 2)
    assert levels(evaluation_batches(data.test)) == [(10, 0), (20, 1)]
    expected = [(10.0 * (i + 1), i % 2) for i in range(6)]
    first, second = epochs(data.train, 0, 2)
    assert sorted(first) == sorted(second) == expected
    assert first != second
    assert epochs(data.train, 1, 2) == [second]


@pytest.mark.parametrize("encode", [tf.io.encode_png, tf.io.encode_jpeg])
def test_each_image_file_is_read_once(encode):
    """A PNG cannot be decoded in part; the whole is decoded from the same bytes."""
    encoded, reads = encode(np.zeros((9, 8, 3), "uint8")).numpy(), []

    def contents(name):
        reads.append(name)
        return encoded

    def read(name):
        return tf.ensure_shape(tf.numpy_function(contents, [name], "string"), ())

    source = EncodedSource(
        lambda seed: tf.data.Dataset.from_tensors((b"name", b"data", 0)), 1, read
    )
    (batch,) = source.batches(1, augment.resize_center_crop(8))
    assert batch[0].shape == (1, 8, 8, 3)
    assert reads == [b"data"]


def test_broken_images_within_and_across_chunks_are_skipped(monkeypatch):
    """Broken at the end of a chunk, in all of the next one and at the very end."""
    monkeypatch.setattr(sources, "_CHUNK", 2)
    broken = 1, 2, 3, 8
    encoded = [tf.io.encode_png(np.full((8, 8, 3), i, "uint8")).numpy() for i in range(9)]
    data = [b"" if i in broken else one for i, one in enumerate(encoded)]
    names = [b"%d" % i for i in range(9)]
    examples = tf.data.Dataset.from_tensor_slices((names, data, range(9)))
    source = EncodedSource(lambda seed: examples, 9)
    batches = [*source.batches(4, augment.as_is(8))]
    labels = np.concatenate([labels for _, labels in batches])
    np.testing.assert_array_equal(labels, [0, 4, 5, 6, 7])
    shades = np.concatenate([images for images, _ in batches])[:, 0, 0, 0]
    np.testing.assert_array_equal(shades, labels)
    assert source.skipped == ["1", "2", "3", "8"]
