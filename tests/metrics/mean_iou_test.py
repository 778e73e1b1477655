"""Mean IoU compared with hand-computed examples and plain NumPy."""

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
    """TP / (TP + FP + FN) per class, as in cityscapesscripts' `getIouScoreForLabel`."""
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


def test_mean_iou_of_two_small_label_maps():
    truth = [[0, 0, 0], [1, 1, 255]]
    prediction = [[0, 0, 1], [1, 3, 2]]
    metric = updated(MeanIoU(5), ([truth], [prediction]))
    # Class 0: 2 TP, 1 FN. Class 1: 1 TP, 1 FN, 1 FP. Class 2: predicted at an ignored
    # pixel only. Class 3: 1 FP. Class 4: absent from both.
    np.testing.assert_allclose(
        metric.result_per_class(), [2 / 3, 1 / 3, np.nan, 0, np.nan]
    )
    assert float(metric.result()) == pytest.approx((2 / 3 + 1 / 3 + 0) / 3, abs=1e-7)


labels = st.sampled_from([0, 1, 2, 3, 255])
maps = arrays.arrays("uint8", (2, 5, 7), elements=labels)


@settings(deadline=None, max_examples=50)
@given(truth=maps, prediction=maps)
def test_random_label_maps_agree_with_numpy(truth, prediction):
    # A prediction of 255 is no class: it adds an FN but no FP.
    expected = iou_by_numpy(truth, prediction, 4)
    metric = updated(MeanIoU(4), (truth[:1], prediction[:1]), (truth[1:], prediction[1:]))
    np.testing.assert_allclose(metric.result_per_class(), expected, atol=1e-12)
    if np.isfinite(expected).any():
        assert float(metric.result()) == pytest.approx(np.nanmean(expected), abs=1e-6)
    else:
        assert np.isnan(metric.result())


def test_result_without_counted_pixels_is_nan():
    assert np.isnan(MeanIoU(3).result())
    ignored = updated(MeanIoU(3), (np.full((1, 4, 4), 255), np.zeros((1, 4, 4))))
    assert np.isnan(ignored.result())
    assert np.isnan(ignored.result_per_class()).all()


@pytest.mark.parametrize("axis", [False, True])
def test_predictions_can_be_scores_or_label_maps(axis):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, (2, 3, 5))  # as wide as there are classes
    scores = rng.normal(size=(2, 3, 5, 5))
    expected = np.nanmean(iou_by_numpy(truth, scores.argmax(-1), 5))
    truth = truth[..., None] if axis else truth
    for prediction in (scores, scores.argmax(-1), scores.argmax(-1)[..., None]):
        metric = updated(MeanIoU(5), (truth, prediction))
        assert float(metric.result()) == pytest.approx(expected, abs=1e-6)


def test_pixels_with_labels_outside_the_classes_are_ignored():
    # Besides 255, Cityscapes labels number plates with -1.
    metric = updated(MeanIoU(2, ignore_class=255), ([[0, -1, 7]], [[0, 1, 1]]))
    np.testing.assert_array_equal(metric.result_per_class(), [1, np.nan])
    metric = updated(MeanIoU(2, ignore_class=1), ([[0, 1, 1]], [[0, 1, 0]]))
    np.testing.assert_array_equal(metric.result_per_class(), [1, np.nan])


def test_sample_weights_per_image_and_per_pixel():
    truth, prediction = [[[0, 0]], [[0, 1]]], [[[0, 1]], [[0, 1]]]
    metric = updated(MeanIoU(2), (truth, prediction, [0, 1]))
    np.testing.assert_array_equal(metric.result_per_class(), [1, 1])
    metric = updated(MeanIoU(2), (truth, prediction, [[[1, 0.5]], [[0, 1]]]))
    np.testing.assert_allclose(metric.result_per_class(), [1 / 1.5, 1 / 1.5])


def test_counts_are_exact_beyond_float32_precision():
    metric = MeanIoU(2)
    metric.confusion.assign([[2**24, 0, 0], [0, 1, 0]])
    metric.update_state([[0]], [[1]])
    np.testing.assert_array_equal(metric.result_per_class(), [2**24 / (2**24 + 1), 0.5])


def test_reset_state_and_config():
    metric = updated(MeanIoU(3, ignore_class=9, name="miou"), ([[0]], [[1]]))
    metric.reset_state()
    assert np.isnan(metric.result())
    copy = MeanIoU.from_config(metric.get_config())
    assert (copy.num_classes, copy.ignore_class, copy.name) == (3, 9, "miou")


def test_evaluate_on_two_replicas_equals_one_device():
    """The last batch of `evaluate` is smaller than the others."""
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


def test_num_classes_must_be_positive():
    with pytest.raises(ValueError, match="Received: num_classes=0"):
        MeanIoU(0)
