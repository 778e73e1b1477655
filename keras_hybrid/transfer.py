"""`HybridTransfer`: a student that trains with the help of a frozen teacher."""

import contextlib

import keras
from keras import ops

from keras_hybrid import balance as balances
from keras_hybrid import switch_points as switches_lib
from keras_hybrid.multi_worker import MultiWorkerFit
from keras_hybrid.path_logs import PathLogs
from keras_hybrid.paths import STUDENT_FIRST, TEACHER_FIRST, build_paths
from keras_hybrid.stages import Network

# (height, width) at which `teacher_preprocessing` is tried where the student takes any.
_UNKNOWN_IMAGE_SIZE = 64


@keras.saving.register_keras_serializable("keras_hybrid")
class HybridTransfer(MultiWorkerFit, keras.Model):
    """Trains `student` through hybrid paths with a frozen `teacher`.

    Every training batch takes three paths to the student's head: the student alone, and
    two paths on which stages of the two networks alternate, joined by 1x1 convolutions.
    With their losses L3, L1 and L2 (paper, Fig. 4) a step minimises

        alpha * (L1 + L2) + L3,   alpha = 2 * L3 / (L1 + L2)   (Eq. 1 and 2)

    for the weights of the student and of the adapters. `evaluate` and `predict` run the
    student alone.

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
        student: The `keras.Model` to train, likewise; or one with a `.backbone`, a
            `.head` (features -> predictions) and, if it likes, its own `compute_loss(x,
            y, y_pred, sample_weight, training)`, which returns the loss of the task
            alone, without regularisation.
        switch_points: Where paths change network. None: at every stride both networks
            have. A tuple of strides before the joint, such as `(2, 8, 16)`. Or a list of
            (teacher layer, student layer) names, the joint last.
        balance: `"dynamic"` (Eq. 1), or a number, or a `DynamicBalance` or
            `FixedBalance`.
        student_batch_norm: Which paths feed the moving averages of the student:
            `"plain"`, the one that is deployed, or `"all"`.
        teacher_preprocessing: A layer or callable between the batch and the teacher, for
            a teacher that does not take what the student takes. A layer is frozen too.
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
        networks = Network(teacher, "teacher"), Network(student, "student")
        _check_apart(teacher, student)
        _check_built(teacher, "teacher")
        _check_built(student, "student")
        if student_batch_norm not in ("plain", "all"):
            raise ValueError(
                '`student_batch_norm` must be "plain" or "all". Received: '
                f"student_batch_norm={student_batch_norm!r}"
            )
        balance = balances.get(balance)
        switches = switches_lib.resolve(*networks, switch_points)
        preprocess = _without_training(teacher_preprocessing)
        _check_images(*networks, switches, preprocess)
        # The student's policy, so that `compile` scales the loss of a float16 student.
        super().__init__(name=name, **{"dtype": student.dtype_policy, **kwargs})
        self.teacher = teacher
        self.student = student
        self.switch_points = switch_points
        self.balance = balance
        self.student_batch_norm = student_batch_norm
        self.teacher_preprocessing = teacher_preprocessing
        self.track_paths = track_paths
        self._freeze_teacher()
        if hasattr(student, "output_names"):
            self.output_names = student.output_names
        self._paths = build_paths(*networks, switches, self.dtype_policy, preprocess)
        self.adapters = [adapter for path in self._paths for adapter in path.adapters]
        self._path_logs = PathLogs()
        self._logs_paths = True
        self.built = True

    @property
    def paths(self):
        """The tuple (student-first, teacher-first, plain) of `Path`s."""
        return tuple(self._paths)

    def call(self, inputs, training=None):
        return self.student(inputs, training=training)

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        **kwargs,
    ):
        self._freeze_teacher()
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

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def _freeze_teacher(self):
        self.teacher.trainable = False
        if isinstance(self.teacher_preprocessing, keras.Layer):
            self.teacher_preprocessing.trainable = False

    def train_step(self, *args):
        """One step on a batch. On JAX and PyTorch it is Keras's own."""
        if keras.backend.backend() != "tensorflow":
            return super().train_step(*args)
        import tensorflow as tf

        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(*args)
        self._clear_losses()
        variables = self.trainable_variables
        plain = self._paths[-1]
        # Only what leads to a trainable weight is recorded: not the teacher's first
        # stage, nor frozen stages of the student.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in variables])
            begun = plain.begin(_images(x), training=True)
            y_pred = plain.finish(_images(x), begun, training=True)
            loss = self._hybrid_loss(x, y, y_pred, sample_weight, begun)
            self._loss_tracker.update_state(
                loss * self.distribute_strategy.num_replicas_in_sync,
                sample_weight=ops.shape(_images(x))[0],
            )
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

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
        loss = self._task_loss(x, y, y_pred, sample_weight, training=False)
        return loss + self._additional_loss()

    def _hybrid_loss(self, x, y, y_pred, sample_weight, begun=None):
        """alpha * (L1 + L2) + L3, and additional losses once (paper, Fig. 4).

        `begun` is the plain path's first segment, where it can be shared.
        """
        l3 = self._task_loss(x, y, y_pred, sample_weight)
        # Before the hybrid paths run the student's layers again, which clears them.
        additional = self._additional_loss()
        student_first, teacher_first, _ = self._paths
        with self._discarding_state():
            if begun is None or self.student_batch_norm == "all":
                begun = student_first.begin(_images(x), training=True)
            y_student_first = student_first.finish(_images(x), begun, training=True)
            l1 = self._task_loss(x, y, y_student_first, sample_weight)
            y_teacher_first = teacher_first(_images(x), training=True)
            l2 = self._task_loss(x, y, y_teacher_first, sample_weight)
        total_l1, total_l2, total_l3 = self._sum_over_replicas([l1, l2, l3])
        alpha = self.balance(total_l1, total_l2, total_l3)
        self._path_logs.update(
            [total_l3, total_l1, total_l2, alpha],
            ops.shape(_images(x))[0],
            y,
            {STUDENT_FIRST: y_student_first, TEACHER_FIRST: y_teacher_first},
            sample_weight,
        )
        return alpha * (l1 + l2) + l3 + additional

    def _task_loss(self, x, y, y_pred, sample_weight, training=True):
        student = self.student
        if type(student).compute_loss is not keras.Model.compute_loss:
            loss = student.compute_loss(
                x=x,
                y=y,
                y_pred=y_pred,
                sample_weight=sample_weight,
                training=training,
            )
        elif self._compile_loss is None:
            raise ValueError("No loss to compute. Provide a `loss` in `compile()`.")
        else:
            loss = self._compile_loss(y, y_pred, sample_weight)
        return ops.cast(loss, "float32")

    def _additional_loss(self):
        losses = [self._aggregate_additional_loss(loss) for loss in self.losses]
        return sum((ops.cast(loss, "float32") for loss in losses), 0.0)

    @contextlib.contextmanager
    def _discarding_state(self):
        """Keeps hybrid paths from changing the student's moving averages.

        Their random numbers do advance; and with `student_batch_norm="all"` everything.
        """
        # JAX trains within a scope of its own, and a scope does not see into another.
        on_jax = keras.backend.backend() == "jax"
        state = [(v, v.value) for v in self.variables] if on_jax else None
        with keras.StatelessScope(state_mapping=state) as scope:
            yield
        student = self.student
        everything = self.student_batch_norm == "all"
        kept = student.non_trainable_variables if everything else _random_state(student)
        for variable in kept:
            value = scope.get_current_value(variable)
            if value is not None:
                variable.assign(value)

    def _sum_over_replicas(self, losses):
        """Losses of the global batch: Keras has divided each by the replica count."""
        if keras.backend.backend() != "tensorflow":
            return losses
        if self.distribute_strategy.num_replicas_in_sync == 1:
            return losses
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, losses)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self._path_logs.build(y, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    @property
    def metrics(self):
        return [*super().metrics, *self._path_logs.metrics]

    def get_metrics_result(self):
        """Log name -> value: the losses, alpha, then the compiled metrics."""
        results = {}
        own = {id(metric) for metric in self._path_logs.metrics}
        for metric in self.metrics:
            if id(metric) not in own:
                value = metric.result()
                results.update(value if isinstance(value, dict) else {metric.name: value})
        if not self._logs_paths:
            return results
        first = {"loss": results.pop("loss")} if "loss" in results else {}
        paths, per_path = self._path_logs.results()
        return {**first, **paths, **results, **per_path}

    def evaluate(self, *args, **kwargs):
        with self._without_path_logs():
            return super().evaluate(*args, **kwargs)

    def test_step(self, *args):
        with self._without_path_logs():
            return super().test_step(*args)

    @contextlib.contextmanager
    def _without_path_logs(self):
        before, self._logs_paths = self._logs_paths, False
        try:
            yield
        finally:
            self._logs_paths = before

    def save_own_variables(self, store):
        for i, variable in enumerate(_random_state(self.student)):
            store[f"random_state_{i}"] = variable

    def load_own_variables(self, store):
        for i, variable in enumerate(_random_state(self.student)):
            variable.assign(store[f"random_state_{i}"])

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "name": self.name,
            "teacher": serialize(self.teacher),
            "student": serialize(self.student),
            "switch_points": serialize(self.switch_points),
            "balance": getattr(self.balance, "alpha", "dynamic"),
            "student_batch_norm": self.student_batch_norm,
            "teacher_preprocessing": serialize(self.teacher_preprocessing),
            "track_paths": self.track_paths,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        with keras.saving.custom_object_scope(custom_objects or {}):
            config = {
                key: keras.saving.deserialize_keras_object(value)
                for key, value in config.items()
                if value is not None
            }
        return cls(**config)


def _images(x):
    """The one image tensor of a batch, also where it comes in a list."""
    return keras.tree.flatten(x)[0]


def _random_state(model):
    """The seeds of dropout and the like, which Keras counts as variables, not weights."""
    weights = {id(weight) for weight in model.weights}
    metrics = {id(variable) for variable in model.metrics_variables}
    others = (v for v in model.variables if id(v) not in weights)
    return [v for v in others if id(v) not in metrics]


def _without_training(preprocessing):
    if preprocessing is None or not isinstance(preprocessing, keras.Layer):
        if preprocessing is not None and not callable(preprocessing):
            raise TypeError(
                "`teacher_preprocessing` must be a layer or a callable. Received: "
                f"teacher_preprocessing={preprocessing!r}"
            )
        return preprocessing
    return lambda images: preprocessing(images, training=False)


def _check_apart(teacher, student):
    if teacher is student:
        raise ValueError(
            "`teacher` and `student` must be two models. Received the same one twice: "
            f"{teacher.name!r}. `keras.models.clone_model` makes another."
        )
    shared = {id(w) for w in teacher.weights} & {id(w) for w in student.weights}
    if shared:
        raise ValueError(
            "`teacher` and `student` must not share weights, since the teacher is "
            f"frozen. Received: teacher={teacher.name!r} and student={student.name!r} "
            f"with {len(shared)} weights in common"
        )


def _check_built(model, argument):
    unbuilt = [layer.name for layer in model._flatten_layers(False) if not layer.built]
    if unbuilt:
        raise ValueError(
            f"`{argument}` must be built: call it on a batch of images first. Received: "
            f"{argument}={model.name!r} with unbuilt {unbuilt[:5]}"
        )


def _check_images(teacher, student, switches, preprocess):
    """Refuses a pair whose images do not fit; runs only the preprocessing."""
    size = tuple(student.graph.input_spec.shape[1:3])
    channels = teacher.graph.input_spec.shape[-1], student.graph.input_spec.shape[-1]
    received = (
        f"Received: teacher={teacher.model.name!r} for {channels[0]} channels and "
        f"student={student.model.name!r} for {channels[1]}"
    )
    teacher_size = size
    if preprocess is not None:
        probe = tuple(n or _UNKNOWN_IMAGE_SIZE for n in size)
        shape = ops.shape(preprocess(ops.zeros((1, *probe, channels[1]))))
        channels = channels[0], shape[-1]
        received = f"Received images of shape {tuple(shape)} from it"
        teacher_size = tuple(
            n if known else None for n, known in zip(shape[1:3], size, strict=True)
        )
    if channels[0] != channels[1]:
        raise ValueError(
            "`teacher` and `student` must take images of as many channels, or "
            f"`teacher_preprocessing` must make them fit. {received}"
        )
    for network, images, cuts in (
        (teacher, teacher_size, [t for t, _ in switches]),
        (student, size, [s for _, s in switches]),
    ):
        if None in images:
            continue
        for cut in cuts:
            if min(cut.size(images)) < 1:
                raise ValueError(
                    f"The images must be larger for {network.model.name!r}: nothing is "
                    f"left at {cut.layer_name!r} (stride {cut.stride}) of images of "
                    f"(height, width) {images}."
                )
