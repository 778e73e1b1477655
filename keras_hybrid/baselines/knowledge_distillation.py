"""KD: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015."""

import keras
from keras import ops

_TEMPERATURE = 3.0


class KnowledgeDistillation(keras.layers.Layer):
    """T^2 KL(softmax(teacher / T), softmax(student / T)), T = 3, as Keras has it.

    Args:
        weight: Factor of the loss.
    """

    takes = "logits"

    def __init__(self, weight=1.0, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight
        # By the name "kl_divergence", its default, Keras 3.15 compares without softmax.
        divergence = keras.losses.KLDivergence(reduction="none")
        self._loss = keras.distillation.LogitsDistillation(_TEMPERATURE, divergence)

    def build(self, teacher_logits_shape, student_logits_shape):
        (teacher_shape,), (student_shape,) = teacher_logits_shape, student_logits_shape
        if teacher_shape != student_shape or student_shape[-1] < 2:
            raise ValueError(
                '`method="kd"` must have a teacher and a student of the same classes, at '
                f"least two. Received outputs of shape {teacher_shape} of the teacher "
                f"and {student_shape} of the student"
            )

    def call(self, teacher_logits, student_logits):
        (teacher,), (student,) = teacher_logits, student_logits
        return self.weight * self._loss.compute_loss(
            ops.cast(teacher, "float32"), ops.cast(student, "float32")
        )
