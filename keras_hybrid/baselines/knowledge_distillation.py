"""KD: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_hybrid.baselines.transfer_loss import TransferLoss
from keras_hybrid.training.types import Tensor

_TEMPERATURE = 3.0


@keras.saving.register_keras_serializable("keras_hybrid")
class KnowledgeDistillation(TransferLoss):
    """T^2 KL(softmax(teacher / T), softmax(student / T)), T = 3.

    It takes logits (B, ..., C), whatever the networks end in (`logits.logits_of`), and
    averages over all axes but the classes. It computes with logarithms throughout:
    `keras.losses.KLDivergence` clips probabilities at 1e-7, below which the student would
    learn nothing.

    Args:
        weight: Factor of the loss.
    """

    takes = "logits"

    def __init__(self, weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(weight, **kwargs)

    def build(
        self,
        teacher_logits_shape: Sequence[Sequence[int | None]],
        student_logits_shape: Sequence[Sequence[int | None]],
    ) -> None:
        (teacher_shape,), (student_shape,) = teacher_logits_shape, student_logits_shape
        if teacher_shape != student_shape or student_shape[-1] < 2:
            raise ValueError(
                "KD must have a teacher and a student of the same classes, at "
                f"least two. Received: outputs of shape {teacher_shape} of the teacher "
                f"and {student_shape} of the student. With a single class use a sigmoid"
            )

    def call(
        self, teacher_logits: Sequence[Tensor], student_logits: Sequence[Tensor]
    ) -> Tensor:
        teacher, student = (
            ops.log_softmax(ops.cast(logits, "float32") / _TEMPERATURE)
            for (logits,) in (teacher_logits, student_logits)
        )
        divergence = ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
        return self.weight * _TEMPERATURE**2 * ops.mean(divergence)
