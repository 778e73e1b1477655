"""Hybrid forward together with a baseline: `HybridTransfer(..., plus=...)`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from compared import STAGES, compared, teacher_of
from counting import with_counting

import equations
import tiny
from keras_hybrid import HybridTransfer, baselines
from keras_hybrid.baselines import METHODS

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy()


@pytest.mark.parametrize("paths", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_minimises_the_sum_of_both_losses(method, paths):
    """Each recomputed by itself: Eq. 1 and 2, and the baseline's loss."""
    loss = METHODS[method](3.0, dtype="float32")
    teacher, student = teacher_of(method), tiny.student()
    model = HybridTransfer(teacher, student, plus=loss, paths_per_step=paths)
    images, labels = tiny.batch()
    variables = [v.value for v in model.trainable_variables]
    before = [v.numpy() for v in model.variables]
    kernels = [(a.convolution.kernel, a.convolution.bias) for a in model.adapters]

    def forward():
        return equations.hybrid_forward(
            teacher, student, [*zip(STAGES, STAGES)], kernels, tf.constant(images)
        )

    if paths == 2:
        alpha, losses, hybrid = equations.losses_and_gradients(
            forward, CROSS_ENTROPY, labels, variables
        )
        total = alpha * (losses[0] + losses[1]) + losses[2]
    else:  # the first step is student-first
        with tf.GradientTape(persistent=True) as tape:
            first, _, own = [CROSS_ENTROPY(labels, y) for y in forward()]
        alpha = float(own) / float(first)
        parts = [
            tape.gradient(each, variables, unconnected_gradients="zero")
            for each in (first, own)
        ]
        hybrid = [2 * alpha * g1 + g3 for g1, g3 in zip(*parts)]
        total = 2 * alpha * float(first) + float(own)
    of_teacher = compared(model, loss.takes, "teacher", images, training=False)
    with tf.GradientTape() as tape:
        of_student = compared(model, loss.takes, "student", images, training=True)
        transfer = loss(of_teacher, of_student)
    added = tape.gradient(transfer, variables, unconnected_gradients="zero")
    for variable, value in zip(model.variables, before):
        variable.assign(value)

    # Tracing takes longer than the step; one method of each kind of path does in a graph.
    model.compile(keras.optimizers.SGD(1.0), CROSS_ENTROPY, run_eagerly=method != "at")
    old = [v.numpy() for v in model.trainable_variables]
    logs = model.train_on_batch(images, labels, return_dict=True)
    assert logs["balance"] == pytest.approx(alpha, rel=1e-4)
    assert logs["transfer_loss"] == pytest.approx(float(transfer), rel=1e-4)
    assert logs["loss"] == pytest.approx(total + float(transfer), rel=1e-4)
    for variable, value, g, h in zip(model.trainable_variables, old, hybrid, added):
        scale = max(np.abs(g + h).max(), 1e-2)
        taken = (value - variable.numpy()) / scale
        np.testing.assert_allclose(
            taken, (g + h) / scale, atol=2e-4, err_msg=variable.path
        )


@pytest.mark.parametrize("paths", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_the_teacher_runs_once_on_the_images(method, paths):
    teacher, in_first = with_counting(teacher_of(method), "conv1")
    plus = METHODS[method](1.0)
    model = HybridTransfer(teacher, tiny.student(), plus=plus, paths_per_step=paths)
    model.compile("sgd", CROSS_ENTROPY, run_eagerly=method != "at")
    in_first.count = 0
    images, labels = tiny.batch(32)
    model.fit(images, labels, batch_size=8, verbose=0)
    assert in_first.count == 4  # also in steps without the teacher-first path


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("batch_norm", ["plain", "all"])
def test_compute_loss_equals_the_loss_of_a_step(batch_norm, eager):
    keras.utils.set_random_seed(1)
    model = HybridTransfer(
        tiny.teacher(),
        tiny.student(),
        plus=baselines.AttentionTransfer(10.0),
        student_batch_norm=batch_norm,
    )
    model.compile(keras.optimizers.SGD(0.0), CROSS_ENTROPY, run_eagerly=eager)
    images, labels = tiny.batch(8)
    logs = model.train_on_batch(images, labels, return_dict=True)
    y_pred = model.student(images, training=True)
    loss = model.compute_loss(images, labels, y_pred, training=True)
    assert float(loss) == pytest.approx(logs["loss"], rel=1e-5)


def test_a_teacher_with_logits_in_its_own_precision(monkeypatch, eager):
    """In bfloat16, but for the softmax."""
    monkeypatch.setattr("keras_hybrid.hybrid.precision._is_fast", lambda dtype: True)
    losses = []
    for dtype in (None, "bfloat16"):
        keras.utils.set_random_seed(1)
        plus = baselines.KnowledgeDistillation(1.0)
        model = HybridTransfer(
            teacher_of("kd"), tiny.student(), plus=plus, teacher_dtype=dtype
        )
        model.compile("sgd", CROSS_ENTROPY)
        logs = model.train_on_batch(*tiny.batch(8), return_dict=True)
        losses.append(logs["transfer_loss"])
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.02)


class WithoutHead(keras.Model):
    """A teacher that only has a backbone."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


@pytest.mark.parametrize("takes", ["stages", "before_activation"])
def test_what_is_behind_the_maps_of_a_teacher_is_not_run(takes, eager):
    """As the dense layers of a classifier, which fit images of one size only."""
    teacher = tiny.teacher(size=48)
    maps = teacher.get_layer("out3").output
    dense = keras.layers.Dense(3)(keras.layers.Flatten()(maps))
    method = "at" if takes == "stages" else "overhaul"
    for network in (
        keras.Model(teacher.input, dense),
        WithoutHead(keras.Model(teacher.input, maps)),
    ):
        models = (
            HybridTransfer(network, tiny.student(), plus=METHODS[method]()),
            baselines.FeatureTransfer(network, tiny.student(), method),
        )
        for model in models:
            model.compile("sgd", "sparse_categorical_crossentropy")
            assert np.isfinite(model.train_on_batch(*tiny.batch())).all()


def test_it_ends_with_the_hybrid_paths():
    model = HybridTransfer(
        tiny.teacher(), tiny.student(), plus=baselines.FitNet(), paths_per_step=1
    )
    model.compile("sgd", CROSS_ENTROPY)
    model.hybrid = False
    logs = model.train_on_batch(*tiny.batch(8), return_dict=True)
    assert "transfer_loss" not in logs
    assert logs["loss"] == pytest.approx(logs["student_loss"])


def test_what_is_no_new_loss_is_refused():
    used = baselines.AttentionTransfer()
    HybridTransfer(tiny.teacher(), tiny.student(), plus=used)
    for plus in ("at", baselines.AttentionTransfer, used):
        with pytest.raises(TypeError, match="`plus` must be a new loss of keras_hybrid"):
            HybridTransfer(tiny.teacher(), tiny.student(), plus=plus)


def test_several_teachers_are_refused():
    with pytest.raises(ValueError, match="`plus` must be left out with several teachers"):
        HybridTransfer(
            [tiny.teacher(), tiny.teacher(name="other")],
            tiny.student(),
            plus=baselines.FitNet(),
        )


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), "1", True])
def test_invalid_weights(weight):
    with pytest.raises(ValueError, match="`weight` must be a finite number"):
        baselines.AttentionTransfer(weight)
