"""`FeatureTransfer`: a student that trains with a baseline of hybrid forward."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_hybrid.baselines.activation_boundaries import ActivationBoundaries
from keras_hybrid.baselines.attention_transfer import AttentionTransfer
from keras_hybrid.baselines.factor_transfer import FactorTransfer
from keras_hybrid.baselines.fitnet import FitNet
from keras_hybrid.baselines.knowledge_distillation import KnowledgeDistillation
from keras_hybrid.baselines.logits import logits_of
from keras_hybrid.baselines.overhaul import Overhaul
from keras_hybrid.hybrid import checks, precision, preprocessing, teacher_student
from keras_hybrid.hybrid import switch_points as switches_lib
from keras_hybrid.hybrid.graph import last_operations
from keras_hybrid.hybrid.path_logs import PathLogs
from keras_hybrid.hybrid.stages import Network
from keras_hybrid.hybrid.teacher_student import TeacherStudent
from keras_hybrid.training.types import Tensor

METHODS = {
    "kd": KnowledgeDistillation,
    "fitnet": FitNet,
    "at": AttentionTransfer,
    "ft": FactorTransfer,
    "ab": ActivationBoundaries,
    "overhaul": Overhaul,
}


@keras.saving.register_keras_serializable("keras_hybrid")
class FeatureTransfer(TeacherStudent):
    """Trains `student` on its task's loss and its difference from a frozen `teacher`.

    loss = task's loss + weight * method's loss

    A method compares the feature maps at which `HybridTransfer` would change network: the
    last ones of the spatial scales that both networks have; `"fitnet"` only those of the
    middle one, and `"ft"` those of the last. `"ab"` and `"overhaul"` take
    the inputs of the activation functions there; `"kd"` compares the outputs instead.
    `fit` logs the task's loss as `student_loss` and the method's weighted loss as
    `transfer_loss`; `evaluate` and `predict` run the student alone.

    Example:

    >>> model = keras_hybrid.baselines.FeatureTransfer(teacher, student, "at")
    >>> model.compile("sgd", loss="sparse_categorical_crossentropy")
    >>> model.fit(train, epochs=90)

    Args:
        teacher: A model that `HybridTransfer` takes as a teacher; for `"kd"` any
            `keras.Model` with one output. It is frozen, also for its other uses: its
            `trainable` becomes False.
        student: A model that `HybridTransfer` takes; for `"kd"` any `keras.Model` with
            one output. For `"kd"` the two may end in logits, in a softmax over the same
            classes, or in a sigmoid for each class. Under mixed precision use float32 for
            a softmax: float16 has no probabilities below 3e-8.
        method: `"kd"`, `"fitnet"`, `"at"`, `"ft"`, `"ab"` or `"overhaul"`.
        weight: Factor of the method's loss; None for that of its paper or, where the
            paper's does not carry over, 1.
        switch_points: Points to compare at, as for `HybridTransfer`; `"kd"` compares the
            outputs alone.
        teacher_preprocessing: What is applied to the images before the teacher, as for
            `HybridTransfer`.
        teacher_dtype: What the teacher's layers compute in, as for `HybridTransfer`.
        name: Name of the model.

    Raises:
        TypeError, ValueError: The two are no pair, `"kd"` has outputs that cannot be
            compared, or an argument is invalid.
    """

    def __init__(
        self,
        teacher: keras.Model,
        student: keras.Model,
        method: str,
        weight: float | None = None,
        *,
        switch_points: Sequence[int] | Sequence[tuple[str, str]] | None = None,
        teacher_preprocessing: Any = None,
        teacher_dtype: str | None = None,
        name: str = "feature_transfer",
        **kwargs: Any,
    ) -> None:
        transfer_loss = _loss_of(method, weight)
        dtype_of_teacher = precision.resolve(teacher_dtype)
        teacher_preprocessing = preprocessing.get(teacher_preprocessing)
        if transfer_loss.takes == "logits":
            preprocess = preprocessing.function_of(teacher_preprocessing)
            extractors = logits_of(teacher, student, preprocess)
            transfer_loss.build(*(extractor.shapes for extractor in extractors))
        else:
            of_student = Network(student, "student")
            of_teacher = teacher_student.network_of_teacher(teacher, of_student)
            checks.check_call(student, "student")
            networks = of_teacher, of_student
            switches = switches_lib.resolve(*networks, switch_points)
            preprocess = teacher_student.images_of_teacher(
                *networks, switches, teacher_preprocessing
            )
            addition = transfer_loss.between(*networks, switches, preprocess)
            extractors = addition.of_teacher, addition.of_student
        logs = PathLogs(("student_loss", "transfer_loss"))
        super().__init__(
            teacher, student, teacher_preprocessing, logs, name=name, **kwargs
        )
        self.method = method
        self.transfer_loss = transfer_loss
        self.switch_points = switch_points
        self.teacher_dtype = teacher_dtype
        # A softmax in bfloat16 has no logits: all probabilities near 1 are 1.
        in_full = last_operations(teacher) if method == "kd" else []
        # Not a list of layers, which would be those of this model.
        self._in_dtype_of_teacher = functools.partial(
            precision.computing_in, dtype_of_teacher, teacher, in_full
        )
        self._preprocess = preprocess
        self._teacher_extractor, self._student_extractor = extractors

    def _training_loss(self, x, y, sample_weight):
        if type(self).compute_loss is not FeatureTransfer.compute_loss:
            return super()._training_loss(x, y, sample_weight)
        y_pred, maps = self._student_extractor(self._images(x), training=True)
        return self._sum_of_losses(x, y, y_pred, sample_weight, maps), y_pred

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Computes the sum of both losses in training, else the student's own loss.

        Arguments and result are those of `HybridTransfer.compute_loss`.
        """
        if training and not self._evaluates:
            return self._sum_of_losses(x, y, y_pred, sample_weight)
        return self._task_loss(x, y, y_pred, sample_weight, training=False)

    def _sum_of_losses(self, x, y, y_pred, sample_weight, maps=None):
        """`maps` are the student's, if the pass that made `y_pred` has kept them."""
        task = self._task_loss(x, y, y_pred, sample_weight)
        # Collected before the student's layers run again, which clears them.
        additional = self._additional_loss()
        images = self._images(x)
        if maps is None:
            _, maps = self._run_again(
                [lambda: self._student_extractor(images, training=True)]
            )
        if self._preprocess is not None:
            images = self._preprocess(images)
        with self._in_dtype_of_teacher():
            _, of_teacher = self._run_again(
                [lambda: self._teacher_extractor(images, training=False)]
            )
        of_teacher = [ops.stop_gradient(x) for x in of_teacher]
        # Each of several replicas adds its share, as in the task's loss.
        transfer = self._aggregate_additional_loss(self.transfer_loss(of_teacher, maps))
        losses = self._sum_over_replicas([task, transfer])
        self._path_logs.update(losses, [ops.shape(images)[0]] * 2)
        return task + transfer + additional

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "method": self.method,
            "weight": self.transfer_loss.weight,
            "switch_points": keras.saving.serialize_keras_object(self.switch_points),
            "teacher_dtype": self.teacher_dtype,
        }


def _loss_of(method, weight):
    if method not in METHODS:
        raise ValueError(
            f"`method` must be one of {', '.join(METHODS)}. Received: method={method!r}"
        )
    given = {} if weight is None else {"weight": weight}
    return METHODS[method](**given, name="transfer_loss")
