"""Mean IoU against hand-sized examples and a plain NumPy confusion matrix."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from keras_hybrid.metrics import MeanIoU
from replicas import strategy


def iou_by_numpy(truth, prediction, num_classes, ignore_class=255):
    """As cityscapesscripts' `getIouScoreForLabel`: TP / (TP + FP + FN), a class each."""
    iou = []
    for label in range(num_classes):
        counts = truth != ignore_class
        tp = np.sum(counts & (truth == label) & (prediction == label))
        fp = np.sum(counts & (truth != label) & (prediction == label))
        fn = np.sum(counts & (truth == label) & (prediction != label))
        iou.append(tp / (tp + fp + fn) if tp + fp + fn else np.nan)
    return np.array(iou)


def updated(metric, *batches):
    for batch in batches:
        metric.update_state(*batch)
    return metric


def test_a_hand_sized_example():
    truth = [[0, 0, 0], [1, 1, 255]]
    prediction = [[0, 0, 1], [1, 3, 2]]
    metric = updated(MeanIoU(5), ([truth], [prediction]))
    # 0: 2 right, 1 missed. 1: 1 right, 1 missed, 1 too many. 2: only where nothing
    # counts. 3: predicted once and never there. 4: nowhere.
    np.testing.assert_allclose(
        metric.result_per_class(), [2 / 3, 1 / 3, np.nan, 0, np.nan]
    )
    assert float(metric.result()) == pytest.approx((2 / 3 + 1 / 3 + 0) / 3, abs=1e-7)


labels = st.sampled_from([0, 1, 2, 3, 255])
maps = arrays.arrays("uint8", (2, 5, 7), elements=labels)


@settings(deadline=None, max_examples=50)
@given(truth=maps, prediction=maps)
def test_random_maps(truth, prediction):
    # 255 as a prediction is no class: missed, and nothing too many.
    expected = iou_by_numpy(truth, prediction, 4)
    metric = updated(MeanIoU(4), (truth[:1], prediction[:1]), (truth[1:], prediction[1:]))
    np.testing.assert_allclose(metric.result_per_class(), expected, atol=1e-12)
    if np.isfinite(expected).any():
        assert float(metric.result()) == pytest.approx(np.nanmean(expected), abs=1e-6)
    else:
        assert np.isnan(metric.result())


def test_nothing_counted_is_nan_not_zero():
    assert np.isnan(MeanIoU(3).result())
    ignored = updated(MeanIoU(3), (np.full((1, 4, 4), 255), np.zeros((1, 4, 4))))
    assert np.isnan(ignored.result())
    assert np.isnan(ignored.result_per_class()).all()


@pytest.mark.parametrize("axis", [False, True])
def test_scores_and_label_maps(axis):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, (2, 3, 5))  # as wide as there are classes
    scores = rng.normal(size=(2, 3, 5, 5))
    expected = np.nanmean(iou_by_numpy(truth, scores.argmax(-1), 5))
    truth = truth[..., None] if axis else truth
    for prediction in (scores, scores.argmax(-1), scores.argmax(-1)[..., None]):
        metric = updated(MeanIoU(5), (truth, prediction))
        assert float(metric.result()) == pytest.approx(expected, abs=1e-6)


def test_labels_that_are_no_class_are_left_out():
    # Cityscapes has -1 for the number plate beside 255.
    metric = updated(MeanIoU(2, ignore_class=255), ([[0, -1, 7]], [[0, 1, 1]]))
    np.testing.assert_array_equal(metric.result_per_class(), [1, np.nan])
    metric = updated(MeanIoU(2, ignore_class=1), ([[0, 1, 1]], [[0, 1, 0]]))
    np.testing.assert_array_equal(metric.result_per_class(), [1, np.nan])


def test_sample_weights():
    truth, prediction = [[[0, 0]], [[0, 1]]], [[[0, 1]], [[0, 1]]]
    metric = updated(MeanIoU(2), (truth, prediction, [0, 1]))
    np.testing.assert_array_equal(metric.result_per_class(), [1, 1])
    metric = updated(MeanIoU(2), (truth, prediction, [[[1, 0.5]], [[0, 1]]]))
    np.testing.assert_allclose(metric.result_per_class(), [1 / 1.5, 1 / 1.5])


def test_counts_more_pixels_than_float32_can():
    metric = MeanIoU(2)
    metric.confusion.assign([[2**24, 0, 0], [0, 1, 0]])
    metric.update_state([[0]], [[1]])
    np.testing.assert_array_equal(metric.result_per_class(), [2**24 / (2**24 + 1), 0.5])


def test_reset_and_config():
    metric = updated(MeanIoU(3, ignore_class=9, name="miou"), ([[0]], [[1]]))
    metric.reset_state()
    assert np.isnan(metric.result())
    copy = MeanIoU.from_config(metric.get_config())
    assert (copy.num_classes, copy.ignore_class, copy.name) == (3, 9, "miou")


def test_two_replicas_count_as_one_device():
    """In `evaluate`, batches as images and uneven at the end."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, 4, 4, 3)).astype("float32")
    truth = rng.choice([0, 1, 2, 255], (6, 4, 4)).astype("uint8")

    def evaluate(devices):
        with devices.scope():
            image = keras.Input((4, 4, 3))
            model = keras.Model(image, keras.layers.Activation("linear")(image))
            model.compile(loss=lambda truth, scores: 0.0 * scores, metrics=[MeanIoU(3)])
        data = tf.data.Dataset.from_tensor_slices((images, truth)).batch(4)
        return model.evaluate(data, verbose=0, return_dict=True)["mean_iou"]

    expected = np.nanmean(iou_by_numpy(truth, images.argmax(-1), 3))
    assert evaluate(tf.distribute.get_strategy()) == pytest.approx(expected, abs=1e-6)
    assert evaluate(strategy(2)) == pytest.approx(expected, abs=1e-6)


def test_num_classes_must_be_a_number():
    with pytest.raises(ValueError, match="Received: num_classes=0"):
        MeanIoU(0)
