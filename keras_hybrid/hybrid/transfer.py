"""`HybridTransfer`: a student that trains with the help of a frozen teacher."""

import keras
from keras import ops

from keras_hybrid.hybrid import balance as balances
from keras_hybrid.hybrid import switch_points as switches_lib
from keras_hybrid.hybrid import teacher_student
from keras_hybrid.hybrid.path_logs import PathLogs
from keras_hybrid.hybrid.paths import STUDENT_FIRST, TEACHER_FIRST, build_paths
from keras_hybrid.hybrid.teacher_student import TeacherStudent

_LOGGED = "student_loss", "student_first_loss", "teacher_first_loss", "balance"


@keras.saving.register_keras_serializable("keras_hybrid")
class HybridTransfer(TeacherStudent):
    """Trains `student` through hybrid paths with a frozen `teacher`.

    Every training batch takes three paths to the student's head: the student alone, and
    two paths on which stages of the two networks alternate, joined by 1x1 convolutions.
    With their losses L3, L1 and L2 (paper, Fig. 4) a step minimises

        alpha * (L1 + L2) + L3,   alpha = 2 * L3 / (L1 + L2)   (Eq. 1 and 2)

    for the weights of the student and of the adapters. In all else it is its student:
    `evaluate`, `predict`, `export` and a call give what those of the student give.

    Example:

    >>> teacher = keras_hybrid.applications.load("ResNet50")
    >>> student = keras_hybrid.applications.load("MobileNet", weights=None, classes=10)
    >>> model = keras_hybrid.HybridTransfer(teacher, student)
    >>> model.compile("sgd", loss="sparse_categorical_crossentropy")
    >>> model.fit(images, labels)  # images (B, H, W, 3), as the student takes them
    >>> model.student.save("student.keras")

    Args:
        teacher: A trained `keras.Model`, Functional or Sequential, or with a
            `.backbone` that is. It is frozen (`trainable = False`), the one change made
            to a caller's object. Its head is never used.
        student: The `keras.Model` to train, likewise; or a subclassed one with a
            `.backbone` and a `.head` (features -> predictions). It may have its own
            `compute_loss(x, y, y_pred, sample_weight, training)`, which may call
            `super().compute_loss`: what `compile` is given here is lent to it. In
            training regularisation and `add_loss` are added once, whether it counts
            them or not. A `train_step` of its own is refused.
        switch_points: Where paths change network. None: at every stride both networks
            have. A tuple of strides before the joint, such as `(2, 8, 16)`. Or a list of
            (teacher layer, student layer) names, the joint last.
        balance: `"dynamic"` (Eq. 1), or a number, or a `DynamicBalance` or
            `FixedBalance`.
        student_batch_norm: Which paths feed the moving averages of the student:
            `"plain"`, the one that is deployed, or `"all"`, whose averages fit none
            of them: a student at chance on CIFAR-10 (docs/results.md).
        teacher_preprocessing: A layer or callable between the batch and the teacher, for
            a teacher that does not take what the student takes. A layer is frozen too.
            A function is saved by its name: to load, register it with Keras or give it
            in `custom_objects`.
        track_paths: Whether to log each compiled metric for the hybrid paths as well
            (paper, Fig. 6), as `"student_first_accuracy"` and so on.
        name: Name of the model.

    Raises:
        TypeError, ValueError: The pair cannot be joined; the message says why.
    """

    def __init__(
        self,
        teacher,
        student,
        *,
        switch_points=None,
        balance="dynamic",
        student_batch_norm="plain",
        teacher_preprocessing=None,
        track_paths=False,
        name="hybrid_transfer",
        **kwargs,
    ):
        networks = teacher_student.networks_of(teacher, student)
        if student_batch_norm not in ("plain", "all"):
            raise ValueError(
                '`student_batch_norm` must be "plain" or "all". Received: '
                f"student_batch_norm={student_batch_norm!r}"
            )
        balance = balances.get(balance)
        switches = switches_lib.resolve(*networks, switch_points)
        preprocess = teacher_student.without_training(teacher_preprocessing)
        teacher_student.check_images(*networks, switches, preprocess)
        logs = PathLogs(_LOGGED)
        super().__init__(
            teacher, student, teacher_preprocessing, logs, name=name, **kwargs
        )
        self.switch_points = switch_points
        self.balance = balance
        self.student_batch_norm = student_batch_norm
        self.track_paths = track_paths
        self._paths = build_paths(*networks, switches, self.dtype_policy, preprocess)
        self.adapters = [adapter for path in self._paths for adapter in path.adapters]

    @property
    def paths(self):
        """The tuple (student-first, teacher-first, plain) of `Path`s."""
        return tuple(self._paths)

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        **kwargs,
    ):
        super().compile(
            optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            **kwargs,
        )
        if self.track_paths and self._compile_metrics is not None:
            self._path_logs.compile(self._compile_metrics, metrics, weighted_metrics)

    def _training_loss(self, x, y, sample_weight):
        images, plain = self._images(x), self._paths[-1]
        begun = plain.begin(images, training=True)
        y_pred = plain.finish(images, begun, training=True)
        return self._hybrid_loss(x, y, y_pred, sample_weight, begun), y_pred

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The hybrid loss of a training batch, the student's own loss otherwise.

        Args:
            x: Images (B, H, W, C).
            y: Targets.
            y_pred: Predictions of the plain path.
            sample_weight: As in `fit`.
            training: Whether the batch is for training.

        Returns:
            A float32 scalar, regularisation and `add_loss` terms included.
        """
        if training:
            return self._hybrid_loss(x, y, y_pred, sample_weight)
        return self._task_loss(x, y, y_pred, sample_weight, training=False)

    def _hybrid_loss(self, x, y, y_pred, sample_weight, begun=None):
        """alpha * (L1 + L2) + L3, and additional losses once (paper, Fig. 4).

        `begun` is the plain path's first segment, where it can be shared.
        """
        l3 = self._task_loss(x, y, y_pred, sample_weight)
        # Before the hybrid paths run the student's layers again, which clears them.
        additional = self._additional_loss()
        student_first, teacher_first, _ = self._paths
        images = self._images(x)
        everything = self.student_batch_norm == "all"
        keeps = self.student.non_trainable_variables if everything else ()
        with self._discarding_state(keeps):
            if begun is None or everything:
                begun = student_first.begin(images, training=True)
            y_student_first = student_first.finish(images, begun, training=True)
            l1 = self._task_loss(x, y, y_student_first, sample_weight)
            begun = teacher_first.begin(images, training=True)
            y_teacher_first = teacher_first.finish(images, begun, training=True)
            l2 = self._task_loss(x, y, y_teacher_first, sample_weight)
        total_l1, total_l2, total_l3 = self._sum_over_replicas([l1, l2, l3])
        alpha = self.balance(total_l1, total_l2, total_l3)
        self._path_logs.update(
            [total_l3, total_l1, total_l2, alpha],
            ops.shape(images)[0],
            y,
            {STUDENT_FIRST: y_student_first, TEACHER_FIRST: y_teacher_first},
            sample_weight,
        )
        return alpha * (l1 + l2) + l3 + additional

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "switch_points": serialize(self.switch_points),
            "balance": serialize(self.balance),
            "student_batch_norm": self.student_batch_norm,
            "track_paths": self.track_paths,
        }
