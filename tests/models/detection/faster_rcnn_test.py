"""Faster R-CNN, alone and as the student of `HybridTransfer`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import equations
import tiny
from detectors import people, small
from keras_hybrid import HybridTransfer, applications, find_stages
from keras_hybrid.models.detection import faster_rcnn
from keras_hybrid.models.detection.detection_head import detections_of
from keras_hybrid.models.detection.faster_rcnn import FasterRCNN
from replicas import strategy


def overlap(box, other):
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    shared = np.prod(np.maximum(high - low, 0))
    area = np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2])
    return shared / (area - shared)


def test_predictions_have_fixed_shapes():
    images, _ = people(3)
    predictions = small()(images)
    anchors = 32 * 48 * 2 + 16 * 24 + 8 * 12
    assert predictions["logits"].shape == (3, anchors)
    assert predictions["deltas"].shape == (3, anchors, 4)
    assert predictions["boxes"].shape == (3, 100, 4)
    assert predictions["scores"].shape == predictions["classes"].shape == (3, 100)
    assert predictions["count"].shape == (3,)
    assert [tuple(x.shape) for x in predictions["maps"]] == [
        (3, 32, 48, 16),
        (3, 16, 24, 16),
        (3, 8, 12, 16),
    ]


def test_detections_are_sorted_clipped_and_padded_with_zeros():
    detections = small().predict(people(2)[0], verbose=0)
    assert set(detections) == {"boxes", "scores", "classes", "count"}
    for i, count in enumerate(detections["count"]):
        scores = detections["scores"][i]
        assert np.all(np.diff(scores) <= 0)
        assert np.all(scores[:count] >= 0.05)
        assert not np.any(scores[count:])
        assert not np.any(detections["boxes"][i, count:])
        assert np.all(detections["classes"][i, :count] == 1)
        assert detections["boxes"][i].min() >= 0
        assert np.all(detections["boxes"][i].max(0) <= [96, 64, 96, 64])


@pytest.mark.parametrize(
    ("strides", "rate", "steps"), [((4, 8), 3e-3, 400), ((8,), 8e-3, 240)]
)
def test_detector_overfits_four_images_and_finds_every_box(strides, rate, steps):
    detector = small(strides)
    images, truth = people(4)
    schedule = keras.optimizers.schedules.PolynomialDecay(rate, steps, 0.0)
    detector.compile(keras.optimizers.Adam(schedule), steps_per_execution=10)
    y_pred = detector(images, training=True)
    first = float(detector.compute_loss(y=truth, y_pred=y_pred))
    x, y = keras.tree.map_structure(
        lambda array: np.concatenate([array] * 10), (images, truth)
    )
    settings = {"batch_size": 4, "shuffle": False, "verbose": 0, "epochs": steps // 10}
    assert detector.fit(x, y, **settings).history["loss"][-1] < 0.03 * first
    found = detector.predict(images, verbose=0)
    for i in range(4):
        boxes = found["boxes"][i][found["scores"][i] > 0.5]
        real = truth["boxes"][i][truth["labels"][i] > 0]
        assert len(boxes) == len(real)
        for box in real:
            assert max(overlap(box, other) for other in boxes) > 0.8


def test_loss_ignores_background_in_ignore_regions():
    """In an image that is one ignore region, no anchor inside it is background."""
    detector = small()
    images, truth = people(2)
    everywhere = {"boxes": [[[0.0, 0, 96, 64]]] * 2, "labels": [[-1]] * 2}
    everywhere = {name: np.array(value) for name, value in everywhere.items()}
    y_pred = detector(images, training=True)
    # Anchors with more than half of their area outside the image are still background.
    inside = detector.compute_loss(y=everywhere, y_pred=y_pred)
    no_people = {"boxes": np.zeros((2, 1, 4)), "labels": np.zeros((2, 1), "int32")}
    assert inside < 0.6 * detector.compute_loss(y=no_people, y_pred=y_pred)


@pytest.mark.parametrize("count", [0, 1, 300])
def test_training_with_any_number_of_boxes(count):
    generator = np.random.default_rng(0)
    corners = generator.uniform(-20, 110, (2, count, 2, 2))
    boxes = np.concatenate([corners.min(2), corners.max(2)], axis=-1)
    boxes[:, : count // 3, 2:] = boxes[:, : count // 3, :2]  # boxes of zero area
    detector = small()
    detector.compile(keras.optimizers.SGD(0.01))
    images, _ = people(2)
    truth = {"boxes": boxes, "labels": np.ones((2, count), "int32")}
    assert np.isfinite(detector.train_on_batch(images, truth))
    assert all(np.all(np.isfinite(weight)) for weight in detector.get_weights())


def sample_everything(monkeypatch):
    """Use all anchors and proposals in the loss, which makes it deterministic."""
    monkeypatch.setattr(faster_rcnn, "_ANCHORS_SAMPLED", 10_000)
    monkeypatch.setattr(faster_rcnn, "_ANCHORS_POSITIVE", 1.0)
    monkeypatch.setattr(faster_rcnn, "_PROPOSALS_SAMPLED", 10_000)
    monkeypatch.setattr(faster_rcnn, "_PROPOSALS_POSITIVE", 1.0)


def test_sample_weights_apply_per_image(monkeypatch):
    sample_everything(monkeypatch)
    detector = small()
    images, truth = people(2)
    y_pred = detector(images, training=True)
    each = [
        float(detector.compute_loss(y=truth, y_pred=y_pred, sample_weight=weight))
        for weight in (None, np.array([2.0, 0.0]), np.array([0.0, 2.0]))
    ]
    assert each[0] == pytest.approx((each[1] + each[2]) / 2, rel=1e-4)
    assert each[1] != pytest.approx(each[2], rel=1e-3)


def test_stages_are_those_of_the_backbone():
    stages = [(s.stride, s.layer_name) for s in find_stages(small())]
    assert stages == [(2, "out1"), (4, "out2"), (8, "out3")]


def test_invalid_feature_strides_and_anchor_heights():
    with pytest.raises(ValueError, match=r"`feature_strides` must .*\[2, 4, 8\].*16"):
        small((4, 16))
    with pytest.raises(ValueError, match=r"`feature_strides` must rise"):
        small((8, 4))
    with pytest.raises(ValueError, match="`anchor_heights` must have some for .* 4"):
        small(anchor_heights=(12, 16))


def test_a_saved_detector_predicts_the_same_and_keeps_training(tmp_path):
    detector = small(name="mine")
    images, truth = people(2)
    detector.compile("sgd", run_eagerly=True)
    detector.fit(images, truth, verbose=0)
    detector.save(tmp_path / "detector.keras")
    loaded = keras.saving.load_model(tmp_path / "detector.keras")
    assert loaded.name == "mine"
    expected = detector.predict(images, verbose=0)
    for name, value in loaded.predict(images, verbose=0).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5, err_msg=name)
    loaded.fit(images, truth, verbose=0)


@pytest.mark.parametrize("name", ["MobileNet", "ResNet50", "VGG16"])
def test_keras_applications_can_be_backbones(name, shallow):
    kwargs = {"alpha": 0.25} if name == "MobileNet" else {}
    network = applications.load(name, weights=None, **kwargs)
    detector = FasterRCNN(network, channels=8, units=8)
    images = np.zeros((1, 64, 96, 3), "uint8")
    maps = detector(images, training=True)["maps"]
    assert [tuple(x.shape[1:3]) for x in maps] == [(8, 12), (4, 6), (2, 3)]
    assert detector.backbone.layers[-1].weights == network.layers[-1].weights


def test_training_step_follows_equations_1_and_2(monkeypatch, graph_optimization):
    """Student-first S1 T2 S3, teacher-first T1 S2 T3; the head takes all three maps."""
    sample_everything(monkeypatch)
    teacher, student = tiny.teacher(size=64), small()
    model = HybridTransfer(teacher, student)
    images, truth = people(2, 64, 64)
    a1, a2, b1, b2, b3 = [
        (adapter.convolution.kernel, adapter.convolution.bias)
        for adapter in model.adapters
    ]
    ends = [(None, "out1"), ("out1", "out2"), ("out2", "out3")]
    t, s = [
        [equations.cut(network, start, end) for start, end in ends]
        for network in (teacher, student.backbone)
    ]

    def adapt(x, weights):
        return tf.einsum("bhwc,cd->bhwd", x, weights[0][0, 0]) + weights[1]

    def forward():
        s1 = s[0](images)
        t2 = adapt(t[1](adapt(s1, a1), training=False), a2)
        student_first = [s1, t2, s[2](t2)]
        t1 = t[0](images, training=False)
        s2 = s[1](adapt(t1, b1))
        t3 = t[2](adapt(s2, b2), training=False)
        teacher_first = [adapt(t1, b1), s2, adapt(t3, b3)]
        for maps in (student_first, teacher_first, student.backbone(images)):
            yield student.head(maps, training=True)

    variables = [v.value for v in model.trainable_variables]
    alpha, losses, gradients = equations.losses_and_gradients(
        forward,
        lambda y, y_pred: student.compute_loss(y=y, y_pred=y_pred),
        truth,
        variables,
    )
    before = [v.numpy() for v in model.trainable_variables]
    model.compile(keras.optimizers.SGD(1.0))
    logs = model.train_on_batch(images, truth, return_dict=True)
    assert logs["balance"] == pytest.approx(alpha, rel=1e-4)
    names = "student_first_loss", "teacher_first_loss", "student_loss"
    assert [logs[name] for name in names] == pytest.approx(losses, rel=1e-4)
    for variable, old, gradient in zip(model.trainable_variables, before, gradients):
        np.testing.assert_allclose(
            old - variable.numpy(),
            gradient,
            atol=1e-3 * max(np.abs(gradient).max(), 1e-3),
            err_msg=variable.path,
        )


def test_hybrid_training_reduces_the_loss_and_keeps_the_teacher():
    teacher = tiny.teacher(size=64)
    model = HybridTransfer(teacher, small((4, 8)))
    model.compile(keras.optimizers.Adam(2e-3))
    images, truth = people(4, 64, 64)
    frozen = [w.numpy() for w in teacher.weights]
    history = model.fit(images, truth, epochs=10, batch_size=2, verbose=0).history
    assert history["student_loss"][-1] < 0.7 * history["student_loss"][0]
    assert {"balance", "student_first_loss", "teacher_first_loss"} <= set(history)
    for weight, old in zip(teacher.weights, frozen):
        np.testing.assert_array_equal(weight.numpy(), old)
    assert set(model.evaluate(images, truth, verbose=0, return_dict=True)) == {"loss"}
    assert detections_of(model.predict(images, verbose=0))["boxes"].shape == (4, 100, 4)


def test_loss_on_two_replicas_is_close_to_that_on_one_device():
    images, truth = people(4)
    with strategy(2).scope():
        detector = small()
        detector.compile(keras.optimizers.SGD(0.0))
    alone = small()
    alone.set_weights(detector.get_weights())
    alone.compile(keras.optimizers.SGD(0.0))
    expected = alone.evaluate(images, truth, batch_size=4, verbose=0)
    got = detector.evaluate(images, truth, batch_size=4, verbose=0)
    assert got == pytest.approx(expected, rel=0.1)
