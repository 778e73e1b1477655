"""Tiny data sets in the layouts of the real ones, from files to batches."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_hybrid.data.segmentation import augment, cityscapes
from keras_hybrid.data.segmentation.layouts import open_dataset
from trees import SIZE, add_cityscapes, grey, halves, save


@pytest.fixture
def city(tmp_path):
    """Training images of grey 0, 1 and 2, a test image of 100; half road, half car."""
    maps = [halves(7, 26)] * 3
    add_cityscapes(tmp_path, "train", [grey(i) for i in range(3)], maps)
    add_cityscapes(tmp_path, "val", [grey(100)], maps)
    return tmp_path


def batches(source, batch_size=1, multiple=1):
    transform = augment.padded_to_multiple(multiple)
    return [(x.numpy(), y.numpy()) for x, y in source.batches(batch_size, transform)]


def assert_rejected(folder, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        open_dataset(folder)
    assert "\n" not in str(error.value)


def test_cityscapes_tree(city):
    data = open_dataset(city)
    assert data.class_names == cityscapes.CLASSES
    assert (len(data.train), len(data.test)) == (3, 1)
    ((images, labels),) = batches(data.train, batch_size=3)
    assert (images.dtype, labels.dtype) == ("float32", "uint8")
    np.testing.assert_array_equal(images[:, 0, 0], [[0] * 3, [1] * 3, [2] * 3])
    np.testing.assert_array_equal(labels, [halves(0, 13)] * 3)
    assert data.train.skipped == []


def test_cityscapes_ids_map_to_19_classes():
    """cityscapesScripts, helpers/labels.py: 19 of the ids are evaluated."""
    expected = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9}
    expected |= {23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    found = {i: int(c) for i, c in enumerate(cityscapes.CLASS_OF) if 0 <= c < 255}
    assert found == expected
    assert set(cityscapes.CLASS_OF[[0, 6, 29, 30, 255]]) == {255}
    assert set(cityscapes.CLASS_OF[[35, 254]]) == {-1}


def test_gta5_tree_with_palettes_odd_sizes_and_missing_pairs(tmp_path):
    for i in range(1, 13):
        size = (30 + i, 50)
        save(tmp_path / f"images/{i:05}.png", grey(i, size))
        if i != 7:
            labels = halves(7, 34, size)
            save(tmp_path / f"labels/{i:05}.png", labels, palette=True)
    save(tmp_path / "labels/00003.png", halves(7, 34, (9, 9)), palette=True)
    data = open_dataset(tmp_path)
    assert (len(data.train), len(data.test)) == (10, 1)
    seen = batches(data.train) + batches(data.test)
    assert sorted({labels.shape[1] - 30 for _, labels in seen}) == [
        int(images[0, 0, 0, 0]) for images, _ in sorted(seen, key=lambda s: s[0].max())
    ]
    assert {tuple(np.unique(labels)) for _, labels in seen} == {(0, 255)}
    skipped = [*data.train.skipped, *data.test.skipped]
    assert sorted(name[-9:] for name in skipped) == ["00003.png", "00007.png"]
    assert len(seen) == 10


def test_gta5_test_split_is_deterministic(tmp_path):
    for i in range(20):
        save(tmp_path / f"images/{i:05}.png", grey(i))
        save(tmp_path / f"labels/{i:05}.png", halves(7, 8))
    first, again = (
        [float(x.max()) for x, _ in batches(open_dataset(tmp_path).test)]
        for _ in range(2)
    )
    assert first == again
    assert len(first) == 2


def add_camvid(root, split, count, suffix=".png"):
    for i in range(count):
        save(root / split / f"{i}{suffix}", grey(10 * i))
        save(root / f"{split}annot" / f"{i}.png", halves(3, 11))


def test_camvid_tree(tmp_path):
    add_camvid(tmp_path, "train", 2, ".jpg")
    add_camvid(tmp_path, "val", 1)
    assert len(open_dataset(tmp_path).test) == 1
    add_camvid(tmp_path, "test", 3)
    data = open_dataset(tmp_path)
    assert len(data.test) == 3
    assert data.class_names[3] == "Road"
    assert len(data.class_names) == 11
    assert {tuple(np.unique(y)) for _, y in batches(data.train)} == {(3, 255)}


def test_custom_classes_from_classes_txt(tmp_path):
    add_camvid(tmp_path, "train", 1)
    add_camvid(tmp_path, "test", 1)
    names = ["Void", "a", "b", "street", *"cdefghi", "tree"]
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n")
    data = open_dataset(tmp_path)
    assert data.class_names == tuple(names[1:])
    assert set(np.unique(batches(data.train)[0][1])) == {2, 10}


@pytest.fixture
def prepared(tmp_path):
    """A tiny data set named cityscapes, written by tensorflow-datasets."""

    class Cityscapes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="semantic_segmentation")]

        def _info(self):
            features = {
                "image_id": tfds.features.Text(),
                "image_left": tfds.features.Image(shape=(*SIZE, 3)),
                "segmentation_label": tfds.features.Image(shape=(*SIZE, 1)),
            }
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self.examples(4), "validation": self.examples(1)}

        def examples(self, count):
            for i in range(count):
                yield (
                    i,
                    {
                        "image_id": str(i),
                        "image_left": grey(i),
                        "segmentation_label": halves(7, 0)[..., None],
                    },
                )

        def _generate_examples(self):
            raise AssertionError("`examples` does it")

    Cityscapes(data_dir=tmp_path).download_and_prepare()
    return tmp_path


def test_cityscapes_prepared_by_tensorflow_datasets(prepared):
    data = open_dataset(prepared)
    assert (len(data.train), len(data.test)) == (4, 1)
    images, labels = batches(data.train, batch_size=4)[0]
    assert sorted(images[:, 0, 0, 0]) == [0, 1, 2, 3]
    np.testing.assert_array_equal(labels, [halves(0, 255)] * 4)
    transform = augment.random_scale_crop_flip((16, 16))
    for images, _ in data.train.training_batches(2, transform, 0, range(2)):
        assert images.shape == (2, 16, 16, 3)


def test_unprepared_cityscapes_shows_the_tfds_command(tmp_path):
    (tmp_path / "cityscapes/semantic_segmentation").mkdir(parents=True)
    assert_rejected(tmp_path, "tfds build cityscapes/semantic_segmentation")


def label_file(city, i):
    return city / f"gtFine/train/aachen/aachen_{i:06}_000019_gtFine_labelIds.png"


BROKEN_LABEL_MAPS = {
    "labels": (halves(7, 77), r"must hold labels of the data set. Received: \[77\]"),
    "size": (halves(7, 8, (32, 32)), "the same size. Received: 64x32 and 32x32"),
    "colours": (grey(7), "must have one channel. Received: 3 channels"),
    "png": (None, "The label map is not a PNG or JPEG file"),
}


@pytest.mark.parametrize("case", BROKEN_LABEL_MAPS)
def test_a_broken_pair_is_skipped_and_replaced_in_training(city, case, caplog, capfd):
    labels, message = BROKEN_LABEL_MAPS[case]
    path = label_file(city, 1)
    path.write_bytes(b"no image") if labels is None else save(path, labels)
    data = open_dataset(city)
    assert [float(x.max()) for x, _ in batches(data.train)] == [0, 2]
    (skipped,) = data.train.skipped
    assert skipped.endswith("aachen_000001_000019_leftImg8bit.png")
    (record,) = caplog.records
    assert message.replace("\\", "") in record.message
    assert "Traceback" not in record.message + capfd.readouterr().err
    transform = augment.random_scale_crop_flip((16, 16))
    batch = next(iter(data.train.training_batches(3, transform, 0, range(1))))
    assert len(batch[0]) == 3  # another image takes its place


@pytest.mark.parametrize("case", BROKEN_LABEL_MAPS)
def test_data_whose_first_pairs_are_all_broken_are_rejected(city, case):
    labels, message = BROKEN_LABEL_MAPS[case]
    for i in range(3):
        path = label_file(city, i)
        path.write_bytes(b"no image") if labels is None else save(path, labels)
    assert_rejected(city, f"gtFine_labelIds.png: .*{message}")


def test_an_image_without_a_label_map_is_omitted(city, caplog):
    label_file(city, 2).unlink()
    data = open_dataset(city)
    assert "Leaving out 1 images without a label map" in caplog.records[0].message
    assert len(data.train) == 2
    assert data.train.skipped[0].endswith("aachen_000002_000019_leftImg8bit.png")


def test_empty_splits_are_rejected(city, tmp_path):
    for path in (city / "gtFine/val/aachen").iterdir():
        path.unlink()
    assert_rejected(city, "split val. Received: 1 images and none of their label maps")
    (tmp_path / "cv/train").mkdir(parents=True)
    (tmp_path / "cv/trainannot").mkdir()
    assert_rejected(tmp_path / "cv", "must hold images with label maps in trainannot")
    (tmp_path / "gta/images").mkdir(parents=True)
    (tmp_path / "gta/labels").mkdir()
    assert_rejected(tmp_path / "gta", "Received: 0 images, 0 label maps")


def test_unknown_layouts_are_rejected(tmp_path):
    assert_rejected(tmp_path / "nowhere", "must be a folder")
    (tmp_path / "photos").mkdir()
    assert_rejected(tmp_path, "with 'photos'. Expected Cityscapes: leftImg8bit/")
