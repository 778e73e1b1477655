"""Positions, sizes, aspect ratio and order of anchors."""

import numpy as np
import pytest

from keras_hybrid.models.detection.anchors import (
    HEIGHTS,
    anchors_of,
    heights_by_level,
    level_of,
    map_anchors,
)


def test_default_heights_are_those_published_for_citypersons():
    """Eleven heights from 37 to 742 pixels, as in the official model."""
    assert len(HEIGHTS) == 11
    assert HEIGHTS[0] == 37
    assert HEIGHTS[-1] == 742


def test_level_is_the_coarsest_where_a_box_is_twelve_cells_high():
    strides = 8, 16, 32
    heights = 10, 96, 191.9, 192, 383, 384, 742
    assert [level_of(h, strides) for h in heights] == [0, 0, 0, 1, 1, 2, 2]


def test_heights_are_assigned_to_levels():
    assert heights_by_level((400, 40, 192), (8, 16, 32)) == ((40,), (192,), (400,))
    assert heights_by_level((400, 40, 192), (16,)) == ((40, 192, 400),)
    with pytest.raises(ValueError, match="for the map of stride 16.* Received: .*40"):
        heights_by_level((40, 400), (8, 16, 32))


def test_anchors_of_two_small_maps():
    """2 x 3 cells of 10 pixels with two heights, then one cell of 20."""
    anchors = anchors_of([(2, 3), (1, 1)], (10, 20), ((8, 16), (40,)), height_per_width=2)
    anchors = np.array(anchors)
    assert anchors.shape == (2 * 3 * 2 + 1, 4)
    assert anchors.dtype == "float32"
    # Centres: row by row, both heights of a cell next to each other.
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    xs = [5, 5, 15, 15, 25, 25] * 2 + [10]
    ys = [5] * 6 + [15] * 6 + [10]
    np.testing.assert_allclose(centres, np.stack([xs, ys], 1), atol=1e-5)
    np.testing.assert_allclose(anchors[0], [3, 1, 7, 9], atol=1e-5)
    np.testing.assert_allclose(anchors[1], [1, -3, 9, 13], atol=1e-5)
    np.testing.assert_allclose(anchors[-1], [0, -10, 20, 30], atol=1e-5)


@pytest.mark.parametrize("height_per_width", [0.5, 2.44])
def test_map_anchors_equal_those_of_keras_cv(height_per_width):
    sizes, strides, levels = [(5, 7), (1, 4)], (8, 16), ((37, 50.0, 121.3), (200,))
    expected = anchors_of(sizes, strides, levels, height_per_width)
    maps = zip(sizes, strides, levels)
    received = [map_anchors(*settings, height_per_width) for settings in maps]
    np.testing.assert_allclose(np.concatenate(received), expected, atol=1e-4)


def test_keras_cv_is_used_on_tensorflow_alone(monkeypatch):
    def refuse(*_, **__):
        raise ImportError

    monkeypatch.setattr("keras_cv.layers.AnchorGenerator", refuse)
    with pytest.raises(ImportError):
        anchors_of([(2, 3)], (10,), ((8,),))
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    assert anchors_of([(2, 3)], (10,), ((8,),)).shape == (6, 4)
