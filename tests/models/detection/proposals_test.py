"""Box deltas, suppression and proposals on examples that can be checked by hand."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_hybrid.models.detection.nms import class_offsets, non_max_suppression
from keras_hybrid.models.detection.proposals import decode, encode, propose

_ONES = 1.0, 1.0, 1.0, 1.0


def test_encode_and_decode_a_box():
    """From a 10 x 20 box centred at (5, 10) to a 20 x 20 box centred at (15, 15)."""
    box, truth = np.array([[[0.0, 0, 10, 20]]]), np.array([[[5.0, 5, 25, 25]]])
    deltas = np.array(encode(box, truth, _ONES))
    np.testing.assert_allclose(deltas, [[[1.0, 0.25, np.log(2), 0]]], atol=1e-6)
    variance = 0.1, 0.1, 0.2, 0.2
    scaled = np.array(encode(box, truth, variance))
    np.testing.assert_allclose(scaled, [[[10, 2.5, 5 * np.log(2), 0]]], atol=1e-5)
    np.testing.assert_allclose(
        decode(scaled, box, variance, (100, 100)), truth, atol=1e-4
    )


def test_decoded_boxes_are_clipped_to_the_image():
    box = np.array([[[0.0, 0, 10, 20]]])
    shifted = np.array([[[-1.0, 0, 0, 0]]])
    np.testing.assert_allclose(decode(shifted, box, _ONES, (15, 8)), [[[0, 0, 0, 15]]])
    huge = np.array([[[0.0, 0, 1000, 1000]]])
    np.testing.assert_allclose(decode(huge, box, _ONES, (60, 80)), [[[0, 0, 80, 60]]])


@pytest.mark.parametrize("images", [1, 2])
def test_suppression_keeps_the_best_of_overlapping_boxes(images):
    boxes = [[0, 1, 10, 11], [0, 0, 10, 10], [0, 6, 10, 16], [50, 50, 60, 60]]
    indices, kept = non_max_suppression(
        np.array([boxes] * images, "float32"),
        np.array([[True, True, True, False]] * images),
        3,
        0.5,
    )
    for image in range(images):
        found = np.array(indices[image])[np.array(kept[image])]
        assert found.tolist() == [0, 2]


def test_suppression_without_valid_boxes():
    boxes = np.array([[[0, 0, 1, 1]] * 3] * 2, "float32")
    assert not np.any(non_max_suppression(boxes, np.zeros((2, 3), bool), 2, 0.5)[1])
    assert np.any(non_max_suppression(boxes, np.ones((2, 3), bool), 2, 0.5)[1])


def boxes_with_zero_areas():
    """Four boxes, of which the first two are clipped to a line and to a point."""
    boxes = [[3, 0, 9, 0], [8, 8, 8, 8], [0, 0, 10, 10], [20, 0, 30, 10]]
    return np.array([boxes], "float32")


def test_suppression_drops_boxes_of_zero_area():
    indices, kept = non_max_suppression(
        boxes_with_zero_areas(), np.ones((1, 4), bool), 3, 0.5
    )
    assert np.array(kept).tolist() == [[True, True, False]]
    assert np.array(indices)[np.array(kept)].tolist() == [2, 3]


def outputs_in_litert(function, folder, **inputs):
    """The two outputs of a function after conversion to TFLite, run in LiteRT."""
    module = tf.Module()
    specs = [tf.TensorSpec(x.shape, x.dtype, name) for name, x in inputs.items()]
    module.run = tf.function(function, input_signature=specs)
    tf.saved_model.save(module, folder)
    content = tf.lite.TFLiteConverter.from_saved_model(str(folder)).convert()
    outputs = Interpreter(model_content=content).get_signature_runner()(**inputs)
    return outputs["output_0"], outputs["output_1"]


def test_suppression_in_litert_drops_boxes_of_zero_area(tmp_path):
    """LiteRT's own operator would select the line three times."""
    indices, kept = outputs_in_litert(
        lambda boxes, valid: non_max_suppression(boxes, valid, 3, 0.5),
        tmp_path,
        boxes=boxes_with_zero_areas(),
        valid=np.ones((1, 4), bool),
    )
    assert indices[kept].tolist() == [2, 3]


def test_litert_breaks_ties_of_equal_scores_as_keras_does(tmp_path):
    """Uniform image regions such as a wall lead to equal scores."""
    row = np.arange(0, 160, 4, "float32")
    boxes = np.stack([row, 0 * row, row + 10, 0 * row + 10], axis=-1)[None]
    logits = np.full((1, 40), -0.25, "float32")

    def best(logits, boxes):
        return tuple(
            propose(logits, boxes, (40,), pre_nms_topk=40, count=40, iou_threshold=0.4)
        )

    expected, valid = best(logits, boxes)
    assert np.array(valid).sum() == 20  # every other box
    received, also_valid = outputs_in_litert(best, tmp_path, logits=logits, boxes=boxes)
    np.testing.assert_array_equal(also_valid, valid)
    np.testing.assert_array_equal(received[valid], np.array(expected)[valid])


def test_classes_do_not_suppress_each_other():
    boxes = np.array([[[-5, 0, 10, 10], [-5, 0, 10, 10], [-5, 0, 10, 10]]], "float32")
    shifted = class_offsets(boxes, np.array([[1, 2, 1]]))
    indices, kept = non_max_suppression(shifted, np.ones((1, 3), bool), 3, 0.5)
    assert np.array(indices)[np.array(kept)].tolist() == [0, 1]


def test_proposals_are_the_best_boxes_of_all_maps():
    """Two maps of 3 and 2 anchors; the second box of the first is suppressed."""
    boxes = np.array(
        [
            [
                [0, 0, 10, 10],
                [0, 0, 10, 9],
                [30, 0, 40, 10],
                [0, 0, 10, 10],
                [9, 9, 20, 20],
            ]
        ],
        "float32",
    )
    logits = np.array([[3.0, 2.0, -1.0, 1.0, 2.5]], "float32")
    got = propose(logits, boxes, (3, 2), pre_nms_topk=10, count=10, iou_threshold=0.7)
    # Boxes of different maps do not suppress each other: the fourth equals the first.
    np.testing.assert_array_equal(
        got.boxes[0][:4], [boxes[0, 0], boxes[0, 4], boxes[0, 3], boxes[0, 2]]
    )
    assert np.array(got.valid).tolist() == [[True] * 4 + [False]]
    few = propose(logits, boxes, (3, 2), pre_nms_topk=1, count=10, iou_threshold=0.7)
    np.testing.assert_array_equal(few.boxes[0], [boxes[0, 0], boxes[0, 4]])
    one = propose(logits, boxes, (3, 2), pre_nms_topk=9, count=1, iou_threshold=0.7)
    np.testing.assert_array_equal(one.boxes[0], [boxes[0, 0]])
