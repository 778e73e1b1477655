import fractions

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_hybrid.hybrid import balance
from keras_hybrid.hybrid.balance import DynamicBalance, FixedBalance


def test_dynamic_balance_follows_equation_1():
    # 2 * 1.5 / (2 + 4) = 0.5
    assert float(DynamicBalance()(2.0, 4.0, 1.5)) == 0.5


def test_dynamic_balance_is_zero_when_the_hybrid_losses_are_zero():
    assert float(DynamicBalance()(0.0, 0.0, 3.0)) == 0.0


def test_dynamic_balance_accepts_negative_losses():
    # 2 * -1 / (-2 + -2) = 0.5. Cosine similarity is an example of a negative loss.
    assert float(DynamicBalance()(-2.0, -2.0, -1.0)) == 0.5


def test_dynamic_balance_is_computed_in_float32():
    half = tf.constant(60000.0, "float16")  # the sum overflows in float16
    assert float(DynamicBalance()(half, half, half)) == 1.0
    assert keras.backend.standardize_dtype(DynamicBalance()(half, half, half).dtype) == (
        "float32"
    )


def test_dynamic_balance_has_no_gradient():
    losses = [tf.Variable(value) for value in (2.0, 4.0, 1.5)]
    with tf.GradientTape() as tape:
        alpha = DynamicBalance()(*losses)
    assert tape.gradient(alpha, losses) == [None, None, None]


def test_fixed_balance_ignores_the_losses():
    assert float(FixedBalance(0.3)(1.0, 2.0, 3.0)) == pytest.approx(0.3)


def test_get_accepts_the_short_forms():
    assert isinstance(balance.get("dynamic"), DynamicBalance)
    assert balance.get(2).alpha == 2.0
    fixed = FixedBalance(0.5)
    assert balance.get(fixed) is fixed


NUMBERS = [
    0.5,
    np.float32(0.5),
    np.float16(0.5),
    np.array(0.5),
    tf.constant(0.5),
    fractions.Fraction(1, 2),
]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: type(number).__name__)
def test_get_accepts_any_number(number):
    alpha = balance.get(number).alpha
    assert (alpha, type(alpha)) == (0.5, float)


@pytest.mark.parametrize("number", [2, np.int64(2), np.uint8(2), np.array(2)])
def test_get_accepts_any_integer(number):
    assert balance.get(number).alpha == 2.0


BAD = [
    *("static", "1", -1, float("nan"), True, None, [1], 1j),
    *(np.float32(-1), np.array([0.5]), np.array(True), np.float64("inf")),
]


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_get_rejects_anything_else(bad):
    with pytest.raises(ValueError, match="`balance` must be"):
        balance.get(bad)
