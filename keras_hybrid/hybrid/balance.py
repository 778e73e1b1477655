"""How much the two hybrid paths weigh beside the student's own loss."""

import math
import numbers

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("keras_hybrid")
class DynamicBalance:
    """alpha = 2 L3 / (L1 + L2), batch by batch (paper, Eq. 1).

    Scales the hybrid losses to the student's own, and is a constant for the gradient
    (Eq. 2). With L1 + L2 = 0 there is nothing to scale, and alpha is 0.

    >>> float(DynamicBalance()(2.0, 4.0, 1.5))
    0.5
    """

    def __call__(self, student_first_loss, teacher_first_loss, student_loss):
        """Returns alpha, a float32 scalar, from the scalars L1, L2 and L3."""
        losses = student_first_loss, teacher_first_loss, student_loss
        l1, l2, l3 = (ops.cast(loss, "float32") for loss in losses)
        return ops.stop_gradient(ops.divide_no_nan(2.0 * l3, l1 + l2))

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable("keras_hybrid")
class FixedBalance:
    """The same alpha for every batch; 1 is the plain sum of Table 1 of the paper.

    Args:
        alpha: Weight of the two hybrid losses, a number of at least 0.
    """

    def __init__(self, alpha):
        if not is_number(alpha):
            raise TypeError(f"`alpha` must be a number. Received: alpha={alpha!r}")
        if not math.isfinite(alpha) or alpha < 0:
            raise ValueError(
                f"`alpha` must be finite and at least 0. Received: alpha={alpha}"
            )
        self.alpha = float(alpha)

    def __call__(self, student_first_loss, teacher_first_loss, student_loss):
        """Returns alpha, a float32 scalar."""
        del student_first_loss, teacher_first_loss, student_loss
        return ops.convert_to_tensor(self.alpha, "float32")

    def get_config(self):
        return {"alpha": self.alpha}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def is_number(value):
    """Whether `value` is a real number: of Python, of NumPy, or an array or tensor ()."""
    array = np.asarray(value)
    is_real = isinstance(value, numbers.Real) or array.dtype.kind in "iuf"
    return array.shape == () and is_real and array.dtype != bool


def get(balance):
    """The balance for what `HybridTransfer(balance=...)` takes.

    Args:
        balance: `"dynamic"`, a number, a `DynamicBalance` or a `FixedBalance`. An own
            subclass comes back from a file as itself, with what its `get_config` returns;
            Keras finds it among registered or custom objects.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(balance, DynamicBalance | FixedBalance):
        return balance
    if isinstance(balance, str) and balance == "dynamic":
        return DynamicBalance()
    try:
        return FixedBalance(balance)
    except (TypeError, ValueError):
        raise ValueError(
            '`balance` must be "dynamic", a number of at least 0, or a balance object. '
            f"Received: balance={balance!r}"
        ) from None
