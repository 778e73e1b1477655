"""The base class of the losses between a teacher and a student."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_hybrid.baselines.addition import Addition
from keras_hybrid.hybrid.balance import is_number
from keras_hybrid.hybrid.cuts import Cut
from keras_hybrid.hybrid.stages import Network
from keras_hybrid.training.types import Tensor


class TransferLoss(keras.layers.Layer):
    """A weighted loss between what two networks make of the same images.

    A subclass has `takes`, which says what it compares: `"stages"`, the feature maps at
    the ends of stages; `"before_activation"`, those before their activation functions; or
    `"logits"`. It is built with two lists of shapes, of what it compares of the teacher
    and of the student, and called with two lists of these tensors.

    Args:
        weight: Factor of the loss.
    """

    takes: str

    def __init__(self, weight: float, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        if not is_number(weight) or not math.isfinite(weight) or weight < 0:
            raise ValueError(
                "`weight` must be a finite number of at least 0. Received: "
                f"weight={weight!r}"
            )
        self.weight = float(weight)

    def between(
        self,
        teacher: Network,
        student: Network,
        switches: Sequence[tuple[Cut, Cut]],
        preprocess: Callable[[Tensor], Tensor] | None,
    ) -> Addition:
        """Builds the loss for two networks, and returns what runs them for it.

        Arguments and errors are those of `Addition`.
        """
        return Addition(self, teacher, student, switches, preprocess)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight": self.weight}


def unit_vectors(x: Tensor) -> Tensor:
    """Flattens each example of `x` (B, ...) and divides it by its norm, in float32."""
    return ops.normalize(ops.reshape(ops.cast(x, "float32"), (ops.shape(x)[0], -1)))
