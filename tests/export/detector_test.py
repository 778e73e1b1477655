"""A detector as one file, with its suppression inside: the same boxes as Keras's."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from detectors import people, small
from keras_hybrid.export import to_saved_model, to_tflite
from keras_hybrid.export.agreement import require_agreement
from keras_hybrid.export.detections import pair_up
from keras_hybrid.models.detection.faster_rcnn import with_detections


@pytest.fixture(scope="module")
def photographs():
    return people(20)[0]


@pytest.fixture(scope="module")
def detector(photographs):
    """Trained until its boxes have scores of their own."""
    model = small()
    model.compile(keras.optimizers.Adam(2e-3))
    model.fit(photographs, people(20)[1], batch_size=4, epochs=24, verbose=0)
    return with_detections(model, *photographs.shape[1:3])


@pytest.fixture(scope="module")
def found_by_keras(detector, photographs):
    """For each photograph by itself."""
    detect = tf.function(detector)
    return [
        {key: value.numpy() for key, value in detect(image[None]).items()}
        for image in photographs
    ]


@pytest.mark.parametrize(
    ("quantization", "pixels", "score"), [(None, 0.5, 1e-3), ("float16", 1, 0.01)]
)
def test_phone_finds_what_keras_finds(
    detector, photographs, found_by_keras, tmp_path, quantization, pixels, score
):
    path = tmp_path / "detector.tflite"
    report = to_tflite(
        detector, path, quantization=quantization, calibration_data=photographs[:5]
    )
    assert "NON_MAX_SUPPRESSION_V4" in report.ops
    assert set(report.output_signature) == {"boxes", "scores", "classes", "count"}
    assert report.output_signature["boxes"][0] == (1, 100, 4)
    runner = Interpreter(model_path=str(path)).get_signature_runner()
    found = 0
    for image, expected in zip(photographs, found_by_keras, strict=True):
        pairs, matched = pair_up(expected, runner(image=image[None]))
        found += len(pairs)
        assert matched > 0.98
        distance = np.abs(pairs[:, 0] - pairs[:, 1])
        assert distance[:, :4].max(initial=0) <= pixels
        assert distance[:, 4].max(initial=0) <= score
    assert found > 40


def test_int8_is_refused(detector, photographs, tmp_path):
    with pytest.raises(ValueError, match='for a detector.*quantization="int8"$'):
        to_tflite(
            detector,
            tmp_path / "detector.tflite",
            quantization="int8",
            calibration_data=photographs,
        )


def test_saved_model_finds_what_keras_finds(detector, photographs, tmp_path):
    # The images it is checked on are in 0..255.
    image = keras.Input(batch_shape=(1, *photographs.shape[1:]))
    model = keras.Model(image, detector(keras.layers.Rescaling(1 / 255)(image)))
    report = to_saved_model(model, tmp_path / "detector")
    assert report.max_abs_error < 0.5
    loaded = tf.saved_model.load(tmp_path / "detector")
    found = loaded.serve(255 * photographs[:1])
    np.testing.assert_allclose(
        found["scores"], detector(photographs[:1])["scores"], atol=1e-3
    )


def detections(*rows):
    """Of one image: (x1, y1, x2, y2, score, class) each, padded to three."""
    boxes = np.zeros((1, 1, 3, 4))
    scores, classes = np.zeros((1, 1, 3)), np.zeros((1, 1, 3), int)
    for i, row in enumerate(rows):
        boxes[0, 0, i], scores[0, 0, i], classes[0, 0, i] = row[:4], row[4], row[5]
    count = np.full((1, 1), len(rows))
    return {"boxes": boxes, "scores": scores, "classes": classes, "count": count}


def test_pairs_do_not_depend_on_the_order():
    first = detections((0, 0, 10, 10, 0.9, 1), (20, 0, 30, 10, 0.8, 1))
    second = detections((20, 0, 30, 11, 0.81, 1), (0, 0, 10, 10, 0.79, 1))
    pairs, matched = pair_up(first, second)
    assert matched == 1
    np.testing.assert_array_equal(pairs[0], [[0, 0, 10, 10, 0.9], [0, 0, 10, 10, 0.79]])
    np.testing.assert_array_equal(pairs[1], [[20, 0, 30, 10, 0.8], [20, 0, 30, 11, 0.81]])


def test_what_only_one_finds_weighs_its_score():
    first = detections((0, 0, 10, 10, 0.9, 1), (20, 0, 30, 10, 0.1, 1))
    second = detections((0, 0, 10, 10, 0.9, 1))
    assert pair_up(first, second)[1] == pytest.approx(1.8 / 1.9)
    other_class = detections((0, 0, 10, 10, 0.9, 2))
    assert pair_up(second, other_class)[1] == 0
    assert pair_up(detections(), detections())[1] == 1
    assert pair_up(detections(), second)[1] == 0


def test_wrong_boxes_are_refused(detector, photographs):
    """A file that moves boxes by two pixels, or finds nothing."""

    def moved(by, share):
        def run(image):
            found = {k: v.numpy() for k, v in detector(image).items()}
            return {
                **found,
                "boxes": found["boxes"] + by,
                "scores": share * found["scores"],
            }

        return run

    images = photographs[:2, None]
    assert require_agreement(detector, moved(0, 1), images).same_argmax == 1
    for by, share in ((2, 1), (0, 0.9), (0, 0)):
        with pytest.raises(RuntimeError, match="must find what the model finds"):
            require_agreement(detector, moved(by, share), images)


def test_boxes_that_rounding_decides_on_may_differ():
    """Of two boxes, a detector keeps the second one if an image is darker by 1e-6."""
    image = keras.Input((8, 8, 3), batch_size=1)
    dark = keras.ops.cast(keras.ops.max(image, (1, 2, 3))[:, None] < 200, "float32")
    box = keras.ops.stack([8 * dark, 0 * dark, 40 + 8 * dark, 40 + 0 * dark], axis=-1)
    outputs = {
        "boxes": box,
        "scores": 0.5 + 0 * dark,
        "classes": 1 + 0 * dark,
        "count": 1 + 0 * dark[:, 0],
    }
    detector = keras.Model(image, outputs)

    def file(by):
        moved = np.array([by, 0, by, 0], "float32")
        return lambda x: {**(found := detector(x)), "boxes": found["boxes"] + moved}

    on_edge = np.full((1, 1, 8, 8, 3), 200, "float32")
    assert require_agreement(detector, file(8), on_edge).max_abs_error == 8
    for by, images in ((18, on_edge), (100, on_edge), (8, on_edge + 1)):
        with pytest.raises(RuntimeError, match="boxes up to"):
            require_agreement(detector, file(by), images)


def test_one_box_that_rounding_decides_on_excuses_no_others():
    """A fifth of all scores belongs to it, and the file moves the other box by 10."""
    image = keras.Input((8, 8, 3), batch_size=1)
    dark = keras.ops.cast(keras.ops.max(image, (1, 2, 3))[:, None] < 200, "float32")
    on_edge, other = 0 * dark, 100 + 0 * dark
    rows = [[on_edge + 8 * dark, on_edge, on_edge + 40 + 8 * dark, on_edge + 40]]
    rows += [[other, other, other + 40, other + 40]]
    outputs = {
        "boxes": keras.ops.stack([keras.ops.stack(row, -1)[:, 0] for row in rows], 1),
        "scores": keras.ops.concatenate([0.2 + 0 * dark, 0.8 + 0 * dark], 1),
        "classes": 1 + keras.ops.concatenate([0 * dark, 0 * dark], 1),
        "count": 2 + 0 * dark[:, 0],
    }
    detector = keras.Model(image, outputs)

    def file(*by):
        moved = np.array([(x, 0, x, 0) for x in by], "float32")
        return lambda x: {**(found := detector(x)), "boxes": found["boxes"] + moved}

    images = np.full((1, 1, 8, 8, 3), 200, "float32")
    assert require_agreement(detector, file(8, 0), images).max_abs_error == 8
    with pytest.raises(RuntimeError, match="boxes up to 10 pixels"):
        require_agreement(detector, file(8, 10), images)


def test_a_file_must_find_half_of_what_the_model_finds():
    """Also if the model itself finds something else in an image that is a bit darker."""
    image = keras.Input((8, 8, 3), batch_size=1)
    dark = keras.ops.cast(keras.ops.max(image, (1, 2, 3))[:, None] < 200, "float32")
    box = keras.ops.stack([100 * dark, 0 * dark, 40 + 100 * dark, 40 + 0 * dark], -1)
    ones = 1 + 0 * dark
    outputs = {"boxes": box, "scores": ones, "classes": ones, "count": ones[:, 0]}
    detector = keras.Model(image, outputs)
    on_edge = np.full((1, 1, 8, 8, 3), 200, "float32")

    def file(batch):
        return {**(found := detector(batch)), "boxes": found["boxes"] + 300}

    with pytest.raises(RuntimeError, match="100.0% of all scores"):
        require_agreement(detector, file, on_edge)
