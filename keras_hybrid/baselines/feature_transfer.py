"""`FeatureTransfer`: a student that trains with a rival of hybrid forward."""

import math

import keras
from keras import ops

from keras_hybrid.baselines.activation_boundaries import ActivationBoundaries
from keras_hybrid.baselines.attention_transfer import AttentionTransfer
from keras_hybrid.baselines.factor_transfer import FactorTransfer
from keras_hybrid.baselines.feature_extractor import FeatureExtractor
from keras_hybrid.baselines.fitnet import FitNet
from keras_hybrid.baselines.knowledge_distillation import KnowledgeDistillation
from keras_hybrid.baselines.logits import logits_of
from keras_hybrid.baselines.overhaul import Overhaul
from keras_hybrid.hybrid import switch_points as switches_lib
from keras_hybrid.hybrid import teacher_student
from keras_hybrid.hybrid.balance import is_number
from keras_hybrid.hybrid.path_logs import PathLogs
from keras_hybrid.hybrid.teacher_student import TeacherStudent

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
    """Trains `student` on its task's loss and on how it differs from a frozen `teacher`.

    loss = task's loss + weight * method's loss

    What is compared lies where `HybridTransfer` would change network: the last maps of
    the spatial scales that both have; `"ab"` and `"overhaul"` take what goes into the
    activation functions there, `"kd"` the outputs instead. `fit` logs `student_loss`, the
    task's, and `transfer_loss`, the weighted rest; `evaluate` and `predict` run the
    student alone.

    Example:

    >>> model = keras_hybrid.baselines.FeatureTransfer(teacher, student, "at")
    >>> model.compile("sgd", loss="sparse_categorical_crossentropy")
    >>> model.fit(train, epochs=90)

    Args:
        teacher: Any Functional or Sequential network; for `"kd"` any `keras.Model` of
            one output. It is frozen, here and for all uses: its `trainable` becomes
            False.
        student: What `HybridTransfer` takes; for `"kd"` as the teacher. The two may end
            in logits, in a softmax over the same classes, or in a sigmoid for each
            class. Give a softmax float32 under mixed precision: float16 has no
            probabilities below 3e-8.
        method: `"kd"`, `"fitnet"`, `"at"`, `"ft"`, `"ab"` or `"overhaul"`.
        weight: Of the method's loss; None for the one of its paper or, where that does
            not carry over, 1.
        switch_points: Where to compare, as `HybridTransfer` takes it; `"kd"` compares
            the outputs alone.
        teacher_preprocessing: Layer or function that images go through before the
            teacher.

    Raises:
        TypeError, ValueError: The two are no pair, `"kd"` has outputs that cannot be
            compared, or an argument breaks a rule.
    """

    def __init__(
        self,
        teacher,
        student,
        method,
        weight=None,
        *,
        switch_points=None,
        teacher_preprocessing=None,
        name="feature_transfer",
        **kwargs,
    ):
        transfer_loss = _loss_of(method, weight)
        preprocess = teacher_student.without_training(teacher_preprocessing)
        if transfer_loss.takes == "logits":
            taps = logits_of(teacher, student, preprocess)
        else:
            takes = transfer_loss.takes
            taps = _taps(teacher, student, switch_points, preprocess, takes)
        transfer_loss.build(*(tap.shapes for tap in taps))
        logs = PathLogs(("student_loss", "transfer_loss"))
        super().__init__(
            teacher, student, teacher_preprocessing, logs, name=name, **kwargs
        )
        self.method = method
        self.transfer_loss = transfer_loss
        self.switch_points = switch_points
        self._preprocess = preprocess
        self._teacher_taps, self._student_taps = taps

    def _training_loss(self, x, y, sample_weight):
        y_pred, maps = self._student_taps(self._images(x), training=True)
        return self._sum_of_losses(x, y, y_pred, sample_weight, maps), y_pred

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The sum of a training batch, the student's own loss otherwise.

        Args and result are those of `HybridTransfer.compute_loss`.
        """
        if training:
            return self._sum_of_losses(x, y, y_pred, sample_weight)
        return self._task_loss(x, y, y_pred, sample_weight, training=False)

    def _sum_of_losses(self, x, y, y_pred, sample_weight, maps=None):
        """`maps` are the student's, where its pass for `y_pred` has kept them."""
        task = self._task_loss(x, y, y_pred, sample_weight)
        # Before the student's layers run again, which clears them.
        additional = self._additional_loss()
        images = self._images(x)
        if maps is None:
            with self._discarding_state():
                _, maps = self._student_taps(images, training=True)
        if self._preprocess is not None:
            images = self._preprocess(images)
        _, of_teacher = self._teacher_taps(images, training=False)
        of_teacher = [ops.stop_gradient(x) for x in of_teacher]
        # Of several replicas each counts for its share, as in the task's loss.
        transfer = self._aggregate_additional_loss(self.transfer_loss(of_teacher, maps))
        self._path_logs.update(
            self._sum_over_replicas([task, transfer]), ops.shape(images)[0]
        )
        return task + transfer + additional

    def get_config(self):
        return {
            **super().get_config(),
            "method": self.method,
            "weight": self.transfer_loss.weight,
            "switch_points": keras.saving.serialize_keras_object(self.switch_points),
        }


def _taps(teacher, student, switch_points, preprocess, takes):
    networks = teacher_student.networks_of(teacher, student)
    switches = switches_lib.resolve(*networks, switch_points)
    teacher_student.check_images(*networks, switches, preprocess)
    return [
        FeatureExtractor(network, cuts, takes)
        for network, cuts in zip(networks, zip(*switches), strict=True)
    ]


def _loss_of(method, weight):
    if method not in METHODS:
        raise ValueError(
            f"`method` must be one of {', '.join(METHODS)}. Received: method={method!r}"
        )
    if weight is None:
        return METHODS[method](dtype="float32", name="transfer_loss")
    if not is_number(weight) or not math.isfinite(weight) or weight < 0:
        raise ValueError(
            "`weight` must be a finite number of at least 0, or None. Received: "
            f"weight={weight!r}"
        )
    return METHODS[method](float(weight), dtype="float32", name="transfer_loss")
