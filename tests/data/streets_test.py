import numpy as np
import pytest

from keras_hybrid.data import streets


def test_shapes_and_classes():
    images, labels = streets.crops(2 * len(streets.CLASSES), size=24)
    assert images.shape == (16, 24, 24, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert np.bincount(labels).tolist() == [2] * 8
    assert images.std(axis=(1, 2, 3)).min() > 5  # something is drawn in each


@pytest.mark.parametrize("count", [0, 1, 9])
def test_an_image_does_not_depend_on_the_count(count):
    images, labels = streets.crops(count, seed=4)
    more, more_labels = streets.crops(12, seed=4)
    np.testing.assert_array_equal(images, more[:count])
    np.testing.assert_array_equal(labels, more_labels[:count])


def test_seeds_and_domains_differ():
    day, _ = streets.crops(16, seed=0)
    other, _ = streets.crops(16, seed=1)
    dusk, _ = streets.crops(16, seed=0, domain="dusk")
    assert all((a != b).mean() > 0.5 for a, b in zip(day, other))
    assert dusk.mean() < 0.75 * day.mean()


def test_odd_size():
    images, _ = streets.crops(8, size=33)
    assert images.shape == (8, 33, 33, 3)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("count", -1), ("size", 7), ("size", 32.0), ("domain", "rain")],
)
def test_errors_name_the_argument(argument, value):
    arguments = {"count": 1, argument: value}
    with pytest.raises(
        ValueError, match=f"`{argument}` must be .* Received: {argument}="
    ):
        streets.crops(**arguments)
