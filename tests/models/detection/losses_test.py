"""Detection losses on examples that can be checked by hand."""

import numpy as np

from keras_hybrid.models.detection.losses import class_loss, delta_loss, objectness_loss


def test_objectness_loss_is_cross_entropy_over_sampled_anchors():
    logits = np.array([[0.0, 2.0, 50.0], [1.0, 1.0, 1.0]], "float32")
    labels = np.array([[1, 0, 1], [1, 1, 1]])
    sampled = np.array([[True, True, False], [False, False, False]])
    # -log(1/2) and -log(1 - sigmoid(2)). The second image has no sampled anchor.
    expected = (np.log(2) + np.log(1 + np.exp(2))) / 2
    np.testing.assert_allclose(
        objectness_loss(logits, labels, sampled), [expected, 0], 1e-6
    )


def test_class_loss_is_cross_entropy_over_sampled_proposals():
    logits = np.log(
        np.array([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [1, 1, 1]]], "float32")
    )
    labels = np.array([[0, 2, -1]])
    sampled = np.array([[True, True, False]])
    expected = -(np.log(0.5) + np.log(0.7)) / 2
    np.testing.assert_allclose(class_loss(logits, labels, sampled), [expected], 1e-5)


def test_delta_loss_is_smooth_l1_of_objects_divided_by_all_samples():
    """|d| = 1/18 is below beta = 1/9: d ** 2 / (2 beta) = 1/72. |d| = 1: 1 - 1/18."""
    targets = np.zeros((1, 4, 4), "float32")
    deltas = np.array([[[1 / 18, -1, 0, 0], [9, 9, 9, 9], [9] * 4, [9] * 4]], "float32")
    labels = np.array([[1, 0, 2, -1]])
    sampled = np.array([[True, True, False, False]])
    expected = (1 / 72 + 1 - 1 / 18) / 2
    np.testing.assert_allclose(
        delta_loss(deltas, targets, labels, sampled), [expected], 1e-5
    )


def test_smooth_l1_is_continuous_at_beta():
    deltas = np.zeros((2, 1, 4), "float32")
    deltas[:, 0, 0] = 1 / 9 - 1e-6, 1 / 9 + 1e-6
    both = delta_loss(deltas, 0 * deltas, np.ones((2, 1)), np.ones((2, 1), bool))
    np.testing.assert_allclose(both, [1 / 18, 1 / 18], rtol=1e-4)
