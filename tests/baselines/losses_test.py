"""Each baseline's loss by its paper's formula, on maps that can be checked by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_hybrid.baselines.activation_boundaries import ActivationBoundaries
from keras_hybrid.baselines.attention_transfer import AttentionTransfer
from keras_hybrid.baselines.factor_transfer import FactorTransfer
from keras_hybrid.baselines.fitnet import FitNet
from keras_hybrid.baselines.knowledge_distillation import KnowledgeDistillation
from keras_hybrid.baselines.overhaul import Overhaul, margin_relu


def row(*values):
    """A map (1, 1, N, 1)."""
    return tf.constant(values, "float32", shape=(1, 1, len(values), 1))


def built(loss, teacher_maps, student_maps):
    loss.build([m.shape for m in teacher_maps], [m.shape for m in student_maps])
    return loss


def with_constant_connectors(loss, value):
    """The loss with connectors whose output is `value` everywhere."""
    for connector in loss.connectors:
        connector.norm.gamma.assign([0.0])
        connector.norm.beta.assign([value])
    return loss


def test_kd_is_the_kl_divergence_at_temperature_3():
    # T = 3: softmax of (0, ln 3) is (1/4, 3/4), of (0, 0) it is (1/2, 1/2).
    teacher, student = [tf.constant([[0.0, 3 * np.log(3)]])], [tf.constant([[0.0, 0.0]])]
    loss = built(KnowledgeDistillation(weight=2.0), teacher, student)
    divergence = 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)
    assert float(loss(teacher, student)) == pytest.approx(2 * 9 * divergence, rel=1e-5)


def test_fitnet_compares_the_middle_stage():
    maps = [row(9.0), row(1.0, 3.0), row(9.0)], [row(0.0), row(2.0, 2.0), row(0.0)]
    loss = built(FitNet(weight=10.0), *maps)
    loss.regressor.convolution.kernel.assign([[[[0.5]]]])
    # The regressor maps the student's (2, 2) to (1, 1): (0 + 4) / 2 elements / 2 * 10.
    assert float(loss(*maps)) == pytest.approx(10.0)


def test_fitnet_resizes_the_students_map():
    maps = [row(1.0, 1.0, 1.0, 1.0)], [row(2.0, 2.0)]
    loss = built(FitNet(weight=1.0), *maps)
    loss.regressor.convolution.kernel.assign([[[[1.0]]]])
    assert float(loss(*maps)) == pytest.approx(0.5)


def test_at_is_the_distance_of_normalised_attention_maps():
    # Energies (9, 16) and (16, 9) of length sqrt(337): (2 * 7^2 / 337) / 2 elements / 2.
    first, second = row(3.0, 4.0), row(-4.0, 3.0)
    loss = built(AttentionTransfer(weight=1.0), [first], [second])
    assert float(loss([first], [second])) == pytest.approx(49 / 337 / 2)
    # Stages are summed; equal attention at another scale adds nothing.
    maps = [first, first], [second, 5 * first]
    assert float(loss(*maps)) == pytest.approx(49 / 337 / 2)
    assert AttentionTransfer().weight == 1000.0
    # The authors' code omits the factor 1/2, so its beta is half of our weight.
    loss = AttentionTransfer(weight=2000.0)([first], [second])
    assert float(loss) == pytest.approx(1000 * 49 / 337, rel=1e-5)


def test_at_sums_energies_over_channels():
    # sqrt(3^2 + 4^2) in one channel has the energy of 3 and 4 in two.
    two = tf.constant([3.0, 4.0, 1.0, 0.0], shape=(1, 1, 2, 2))
    loss = AttentionTransfer()([two], [row(5.0, 1.0)])
    assert float(loss) == pytest.approx(0, abs=1e-9)


def test_at_has_a_finite_gradient_at_zero():
    zeros = tf.Variable(tf.zeros((1, 1, 2, 1)))
    with tf.GradientTape() as tape:
        loss = AttentionTransfer(weight=1.0)([row(3.0, 4.0)], [zeros])
    assert np.isfinite(tape.gradient(loss, zeros)).all()


def factor_transfer(weight):
    generator = np.random.default_rng(0)
    shapes = (2, 4, 4, 6), (2, 4, 4, 3)
    maps = [[tf.constant(generator.normal(size=s), "float32")] for s in shapes]
    keras.utils.set_random_seed(0)
    return built(FactorTransfer(weight), *maps), maps


def test_ft_is_the_l1_distance_of_normalised_factors():
    loss, ((teacher,), (student,)) = factor_transfer(weight=7.0)
    factors = loss.encoder(teacher, training=True)
    paraphrased = loss.decoder(factors, training=True)
    translated = loss.translator(student, training=True)
    assert factors.shape == translated.shape == (2, 4, 4, 3)  # half the channels
    vectors = [f.numpy().reshape(2, -1) for f in (factors, translated)]
    first, second = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors)
    expected = 7 * np.abs(first - second).mean()
    expected += np.square(paraphrased.numpy() - teacher.numpy()).mean()
    assert float(loss([teacher], [student])) == pytest.approx(expected, rel=1e-4)


def test_ft_trains_the_paraphraser_on_reconstruction_alone():
    def gradients(weight):
        loss, maps = factor_transfer(weight)
        with tf.GradientTape() as tape:
            value = loss(*maps)
        parts = loss.encoder, loss.decoder, loss.translator
        variables = [[v.value for v in part.trainable_variables] for part in parts]
        return tape.gradient(value, variables)

    without, with_factors = gradients(0.0), gradients(500.0)
    for part in (0, 1):
        for g, h in zip(without[part], with_factors[part], strict=True):
            np.testing.assert_allclose(g, h, atol=1e-7)
    assert max(np.abs(g).max() for g in without[2]) == 0
    assert max(np.abs(g).max() for g in with_factors[2]) > 0


def test_ab_is_a_hinge_loss_on_activation_signs():
    maps = [row(2.0, -3.0)], [row(5.0, 6.0)]
    loss = with_constant_connectors(built(ActivationBoundaries(weight=1.0), *maps), 0.25)
    # Student output 1/4: (1 - 1/4)^2 where the teacher is active, else (1 + 1/4)^2.
    assert float(loss(*maps)) == pytest.approx((0.75**2 + 1.25**2) / 2)
    # Beyond the margin on the correct side the loss is zero.
    assert float(with_constant_connectors(loss, 1.5)([row(2.0)], [row(5.0)])) == 0.0


def test_margin_relu_is_bounded_by_the_mean_negative_value():
    x = tf.constant([[2.0, 5.0], [-1.0, 5.0], [-3.0, 5.0]])[None, None]
    expected = [[2.0, 5.0], [-1.0, 5.0], [-2.0, 5.0]]
    np.testing.assert_allclose(margin_relu(x)[0, 0], expected)


@pytest.mark.parametrize(
    ("student", "distance"),
    [
        # Targets 2, -1, -2. A student above all negative targets:
        (0.25, 1.75**2 + 1.25**2 + 2.25**2),
        # A student below -1, which then adds nothing:
        (-1.5, 3.5**2 + 0.0 + 0.5**2),
        (-4.0, 6.0**2),
    ],
)
def test_overhaul_is_a_partial_distance(student, distance):
    maps = [row(2.0, -1.0, -3.0)], [row(1.0, 2.0, 3.0)]
    loss = with_constant_connectors(built(Overhaul(weight=3.0), *maps), student)
    assert float(loss(*maps)) == pytest.approx(3 * distance / 3, rel=1e-5)


def test_connectors_normalise_the_adapted_map():
    maps = [row(1.0, 1.0)], [row(0.0, 2.0)]
    loss = built(Overhaul(), *maps)
    (connector,) = loss.connectors
    connector.adapter.convolution.kernel.assign([[[[10.0]]]])
    out = connector(maps[1][0], size=(1, 2))
    np.testing.assert_allclose(out[0, 0, :, 0], [-1.0, 1.0], atol=1e-3)
