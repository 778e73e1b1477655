"""The weight of the two hybrid losses relative to the student's own loss."""

import math
import numbers
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_hybrid.training.types import Tensor


@keras.saving.register_keras_serializable("keras_hybrid")
class DynamicBalance:
    """alpha = 2 L3 / (L1 + L2), computed for each batch (paper, Eq. 1).

    Scales the hybrid losses to the student's own. The gradient treats alpha as a
    constant (Eq. 2). If L1 + L2 = 0, there is nothing to scale, and alpha is 0.

    >>> float(DynamicBalance()(2.0, 4.0, 1.5))
    0.5
    """

    def __call__(
        self,
        student_first_loss: Tensor,
        teacher_first_loss: Tensor,
        student_loss: Tensor,
    ) -> Tensor:
        """Returns alpha, a float32 scalar, from the scalars L1, L2 and L3."""
        losses = student_first_loss, teacher_first_loss, student_loss
        l1, l2, l3 = (ops.cast(loss, "float32") for loss in losses)
        return ops.stop_gradient(ops.divide_no_nan(2.0 * l3, l1 + l2))

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)


@keras.saving.register_keras_serializable("keras_hybrid")
class FixedBalance:
    """The same alpha for every batch; 1 gives the plain sum in Table 1 of the paper.

    Args:
        alpha: Weight of the two hybrid losses, a number of at least 0.
    """

    def __init__(self, alpha: float) -> None:
        if not is_number(alpha):
            raise TypeError(f"`alpha` must be a number. Received: alpha={alpha!r}")
        if not math.isfinite(alpha) or alpha < 0:
            raise ValueError(
                f"`alpha` must be finite and at least 0. Received: alpha={alpha}"
            )
        self.alpha = float(alpha)

    def __call__(
        self,
        student_first_loss: Tensor,
        teacher_first_loss: Tensor,
        student_loss: Tensor,
    ) -> Tensor:
        """Returns alpha, a float32 scalar."""
        del student_first_loss, teacher_first_loss, student_loss
        return ops.convert_to_tensor(self.alpha, "float32")

    def get_config(self) -> dict[str, Any]:
        return {"alpha": self.alpha}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)


def is_number(value: object) -> bool:
    """Whether `value` is a real number, be it a Python, NumPy or tensor scalar."""
    array = np.asarray(value)
    is_real = isinstance(value, numbers.Real) or array.dtype.kind in "iuf"
    return array.shape == () and is_real and array.dtype != bool


def get(
    balance: str | float | DynamicBalance | FixedBalance,
) -> DynamicBalance | FixedBalance:
    """Returns the balance object for the argument of `HybridTransfer(balance=...)`.

    Args:
        balance: `"dynamic"`, a number, a `DynamicBalance` or a `FixedBalance`. A saved
            model restores a user's own subclass from its `get_config`, if the class is
            registered with Keras or passed in `custom_objects`.

    Raises:
        ValueError: `balance` is none of these.
    """
    if isinstance(balance, DynamicBalance | FixedBalance):
        return balance
    if isinstance(balance, str) and balance == "dynamic":
        return DynamicBalance()
    try:
        return FixedBalance(balance)  # type: ignore[arg-type]  # raises for strings
    except (TypeError, ValueError):
        raise ValueError(
            '`balance` must be "dynamic", a number of at least 0, or a balance object. '
            f"Received: balance={balance!r}"
        ) from None
