"""`HybridTransfer`: a student that trains with the help of a frozen teacher."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from absl import logging
from keras import ops

from keras_hybrid.hybrid import balance as balances
from keras_hybrid.hybrid import checks, precision, preprocessing, teacher_student
from keras_hybrid.hybrid import switch_points as switches_lib
from keras_hybrid.hybrid.adapters import Adapter
from keras_hybrid.hybrid.balance import DynamicBalance, FixedBalance
from keras_hybrid.hybrid.path_logs import PathLogs
from keras_hybrid.hybrid.paths import (
    STUDENT,
    STUDENT_FIRST,
    TEACHER,
    TEACHER_FIRST,
    Path,
    build_paths,
)
from keras_hybrid.hybrid.stages import Network
from keras_hybrid.hybrid.teacher_student import TeacherStudent
from keras_hybrid.training.types import Tensor

_KINDS = STUDENT_FIRST, TEACHER_FIRST


@keras.saving.register_keras_serializable("keras_hybrid")
class HybridTransfer(TeacherStudent):
    """Trains `student` through hybrid paths with a frozen `teacher`.

    Every training batch takes three paths to the student's head: the student alone, and
    two hybrid paths on which stages of the two networks alternate, joined by 1x1
    convolutions. With their losses L3, L1 and L2 (paper, Fig. 4), a training step
    minimises

        alpha * (L1 + L2) + L3,   alpha = 2 * L3 / (L1 + L2)   (Eq. 1)

    with respect to the weights of the student and of the adapters; its gradient takes
    alpha as a constant (Eq. 2). Each of T teachers has two hybrid paths of its own; then
    L1 and L2 are sums over the teachers, and alpha is 2 * T * L3 / (L1 + L2). In
    everything else the model behaves as its student: `evaluate`, `predict`, `export` and
    a call give the same results.

    Example:

    >>> teacher = keras_hybrid.applications.load("ResNet50")
    >>> student = keras_hybrid.applications.load("MobileNet", weights=None, classes=10)
    >>> model = keras_hybrid.HybridTransfer(teacher, student)
    >>> model.compile("sgd", loss="sparse_categorical_crossentropy")
    >>> model.fit(images, labels)  # images (B, H, W, 3), as the student takes them
    >>> model.student.save("student.keras")

    Args:
        teacher: A trained `keras.Model`, Functional or Sequential, or with a
            `.backbone` that is; or a list of several. It is frozen (`trainable = False`),
            which is the only change made to a caller's object. Its head is used only by
            `plus=KnowledgeDistillation(...)`.
        student: The `keras.Model` to train, Functional or Sequential, or a subclass with
            such a `.backbone` and a `.head` (features -> predictions). It may have its
            own `compute_loss(x, y, y_pred, sample_weight, training)`, which may call
            `super().compute_loss` for the loss passed to `compile` here. In training,
            regularisation and `add_loss` terms are added once, whether or not its loss
            includes them. A student with its own `train_step` is refused.
        switch_points: Points at which paths change network: None for every stride that
            both networks have; a tuple of strides before the joint, such as
            `(2, 8, 16)`; or a list of (teacher layer, student layer) names, the joint
            last. For several teachers, strides for all, or a list with one of these for
            each.
        balance: `"dynamic"` (Eq. 1), a number, a `DynamicBalance` or a `FixedBalance`.
        student_batch_norm: Paths that update the student's moving averages: `"plain"`,
            the one that is deployed, or `"all"`, which gives averages that fit none of
            them (on CIFAR-10 the student is then at chance, docs/results.md).
        teacher_preprocessing: What is applied to the images before the teacher, for a
            teacher that does not take the student's images. A layer, which is frozen too,
            or a function, which is saved by its name: to load it, register it with Keras
            or pass it in `custom_objects`. For a student that takes RGB in 0-255 also
            `"tf"` (-1..1), `"torch"` (0..1, then ImageNet mean and standard deviation),
            `"clip"`, `"caffe"`, `"bgr"` or `"inside"` (nothing), an image processor of
            zeromodels or transformers, or timm's data configuration. For a teacher that
            takes images of one size only, such as a ViT, the result is resized. For
            several teachers, one for all, or a list with one for each.
        teacher_dtype: What the teacher's layers compute in: `"bfloat16"`, or `"float16"`
            on GPUs, whatever the student does; None for their own dtype policies. Its
            weights stay as they are, and the layers that scale pixels compute as before.
            A CPU without instructions for it, any CPU with JAX, or a GPU without tensor
            cores for it, computes as with None, which is faster there. With `"float16"`,
            the loss is scaled.
        track_paths: Whether to log each compiled metric for the hybrid paths as well
            (paper, Fig. 6), as `"student_first_accuracy"` and so on.
        paths_per_step: 2 for both hybrid paths of a teacher in each step, or 1 for one
            hybrid path a step, which takes about 0.6 of the time: the student-first one
            while the optimizer's count of iterations is even, the teacher-first one while
            it is odd. With its loss Li, a step then minimises 2 * alpha * Li + L3, with
            alpha = L3 / Li. Several teachers take turns too: of T teachers a step
            minimises 2 * T * alpha * Li + L3. The logged loss of a path that no step of
            an epoch has taken is 0.
        plus: A loss of `keras_hybrid.baselines`, such as `AttentionTransfer(1000.0)`. It
            is added to the hybrid loss, outside of alpha, and compares the teacher with
            the plain path at the points where paths change network, or the outputs for
            `KnowledgeDistillation`. The teacher-first path goes on from this run of the
            teacher. `fit` logs it as `transfer_loss`. For one teacher only.
        adapter: Class or function that makes the adapters, from one network's feature
            maps to the other network's next stage. It is called as `adapter(channels,
            resizes, dtype=dtype, name=name)` and returns a layer, which is called as
            `layer(x, size=(height, width), training=training)` and returns maps (B,
            height, width, channels); `resizes` says whether the size can change at all.
            Losses that it adds by `add_loss` do not count. By default it is the class
            `Adapter` of `keras_hybrid.hybrid.adapters`, the paper's 1x1 convolution and
            bilinear resizing. It is saved by its name, as a function is for
            `teacher_preprocessing`.
        name: Name of the model.

    Raises:
        TypeError, ValueError: The pair cannot be joined; the message says why.
    """

    def __init__(
        self,
        teacher: keras.Model | Sequence[keras.Model],
        student: keras.Model,
        *,
        switch_points: Any = None,
        balance: str | float | DynamicBalance | FixedBalance = "dynamic",
        student_batch_norm: str = "plain",
        teacher_preprocessing: Any = None,
        teacher_dtype: str | None = None,
        track_paths: bool = False,
        paths_per_step: int = 2,
        plus: Any = None,
        adapter: Callable[..., keras.layers.Layer] = Adapter,
        name: str = "hybrid_transfer",
        **kwargs: Any,
    ) -> None:
        teachers = teacher_student.as_list(teacher)
        if not teachers:
            raise ValueError(
                "`teacher` must be a keras.Model, or a list of at least one. Received: "
                f"teacher={teacher!r}"
            )
        of_student = Network(student, "student")
        dtype = precision.resolve(teacher_dtype)
        of_teachers = [
            teacher_student.network_of_teacher(each, of_student, dtype)
            for each in teachers
        ]
        _check(student_batch_norm, paths_per_step, plus, teachers)
        balance = balances.get(balance)
        points = [switch_points] * len(teachers)
        if len(teachers) > 1 and not switches_lib.are_strides(switch_points):
            points = _for_each(teachers, "switch_points", switch_points)
        given = _for_each(teachers, "teacher_preprocessing", teacher_preprocessing)
        given = [preprocessing.get(each) for each in given]
        # `map` adds no frame to the stack, so that a warning names the caller's line.
        of_students = itertools.repeat(of_student)
        switches = list(map(switches_lib.resolve, of_teachers, of_students, points))
        preprocess = [
            teacher_student.images_of_teacher(network, of_student, *each)
            for network, *each in zip(of_teachers, switches, given, strict=True)
        ]
        numbers = [f"_{i}" for i in range(1, len(teachers) + 1)]
        suffixes = numbers if len(teachers) > 1 else [""]
        policy = keras.dtype_policies.get(kwargs.get("dtype", student.dtype_policy))
        paths = []
        for i, network in enumerate(of_teachers):
            *hybrid, plain = build_paths(
                network,
                of_student,
                switches[i],
                policy,
                preprocess[i],
                adapter,
                suffixes[i],
            )
            paths += hybrid
            if plain.head.takes_prefix_only():
                _tell_of_prefix(of_student, switches[i])
        checks.check_call(student, "student")
        if plus is not None and plus.takes == "logits":
            checks.check_call(teachers[0], "teacher")
        # Last of what may be refused: it builds `plus`, and then the teacher is frozen.
        addition = plus and plus.between(
            of_teachers[0], of_student, switches[0], preprocess[0]
        )
        names = [path.name for path in paths]
        losses = (f"{name}_loss" for name in names)
        of_plus = ("transfer_loss",) if plus else ()
        logs = PathLogs(("student_loss", *losses, "balance", *of_plus), names)
        one = isinstance(teacher, keras.Model)
        super().__init__(
            teacher if one else teachers,
            student,
            given[0] if len(given) == 1 else given,
            logs,
            name=name,
            **kwargs,
        )
        self.switch_points = switch_points
        self.balance = balance
        self.student_batch_norm = student_batch_norm
        self.track_paths = track_paths
        self.paths_per_step = paths_per_step
        self.teacher_dtype = teacher_dtype
        self._dtype_of_teacher = dtype
        self.plus = plus
        self._addition = addition
        self._iterations_on_jax: Tensor | None = None
        self._hybrid = True
        self._paths = [*paths, plain]
        self.adapter = adapter
        self.adapters = [layer for path in self._paths for layer in path.adapters]

    @property
    def paths(self) -> tuple[Path, ...]:
        """Student-first and teacher-first for each teacher, and last the plain one."""
        return tuple(self._paths)

    @property
    def hybrid(self) -> bool:
        """Whether training takes the hybrid paths; if not, it trains the student alone.

        It can be set between two epochs of `fit`, as the callback `HybridEpochs` does; at
        the end of `fit`, it is again what it was before. It is not saved.
        """
        return self._hybrid

    @hybrid.setter
    def hybrid(self, value: bool) -> None:
        changes, self._hybrid = value != self._hybrid, value
        if changes and self.train_function is not None:
            self.make_train_function(force=True)

    @functools.wraps(keras.Model.fit)
    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        before = self.hybrid
        try:
            return super().fit(*args, **kwargs)
        finally:
            self.hybrid = before

    @property
    def _random_state(self):
        of_adapters = (teacher_student.random_state(layer) for layer in self.adapters)
        return [*super()._random_state, *itertools.chain(*of_adapters)]

    def _variables_of_step(self):
        # A MultiOptimizer takes all variables or none.
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        takes_all = isinstance(optimizer, keras.optimizers.MultiOptimizer)
        if self.hybrid or takes_all:
            return self.trainable_variables
        own = [v for v in self._trainable_variables if v.trainable]  # of a subclass
        return [*self.student.trainable_variables, *own]

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: str | bool = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        self._check_one_path()
        scales = self.teacher_dtype == "float16" and auto_scale_loss
        if scales and optimizer is not None:
            # Keras does so for a student in float16. Gradients pass through the teacher.
            optimizer = keras.optimizers.get(optimizer)
            if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        super().compile(
            optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
        # Without new metrics, Keras keeps those of an earlier call.
        if self.track_paths and not metrics is weighted_metrics is None:
            self._path_logs.compile(self._compile_metrics, metrics, weighted_metrics)

    def _check_one_path(self):
        """Refuses sums over replicas in a path that is taken by turns.

        TensorFlow has none inside a condition.
        """
        if self.paths_per_step == 2 or self._replica_count == 1:
            return
        trained = (self.student, *self.adapters)
        layers = (layer for each in trained for layer in each._flatten_layers())
        names = [layer.name for layer in layers if getattr(layer, "synchronized", False)]
        if names:
            raise ValueError(
                "`paths_per_step` must be 2 for a student with synchronized batch "
                "normalization on several replicas, or its layers have "
                f"`synchronized=False`. Received: paths_per_step=1 and {names[:5]}"
            )

    def _training_loss(self, x, y, sample_weight):
        if type(self).compute_loss is not HybridTransfer.compute_loss:
            return super()._training_loss(x, y, sample_weight)
        images, plain, values = self._images(x), self._paths[-1], None
        inputs = plain.inputs(images)
        if self._addition and self.hybrid:
            extractor = self._addition.of_student
            values = extractor.run(images, training=True)
            begun = plain.begun(inputs, values, training=True)
            y_pred = extractor.outputs(values, training=True)
        else:
            begun = plain.begin(inputs, training=True)
            y_pred = plain.finish(inputs, begun, training=True)
        return self._hybrid_loss(x, y, y_pred, sample_weight, begun, values), y_pred

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Returns the hybrid loss of a training batch, or else the student's own loss.

        Args:
            x: Images (B, H, W, C).
            y: Targets.
            y_pred: Predictions of the plain path.
            sample_weight: As in `fit`.
            training: Whether the batch is for training.

        Returns:
            A float32 scalar, including regularisation and `add_loss` terms.
        """
        if training and not self._evaluates:
            return self._hybrid_loss(x, y, y_pred, sample_weight)
        return self._task_loss(x, y, y_pred, sample_weight, training=False)

    def _hybrid_loss(self, x, y, y_pred, sample_weight, begun=None, values=None):
        """alpha * (L1 + L2) + L3, plus additional losses once (paper, Fig. 4).

        With T teachers, L1 and L2 are sums, and alpha is 2 * T * L3 / (L1 + L2). Where a
        step takes one of the 2 * T paths, its loss Li counts 2 * T times: the loss is
        2 * T * alpha * Li + L3 with alpha = L3 / Li.

        `begun` has the results of the plain path's first segment, if it has run already,
        and `values` all tensors of the student on it.
        """
        l3 = self._task_loss(x, y, y_pred, sample_weight)
        # Before the hybrid paths run the student's layers again, which clears the losses.
        additional = self._additional_loss()
        batch_size = ops.shape(self._images(x))[0]
        if not self.hybrid:
            self._path_logs.update(self._sum_over_replicas([l3]), [batch_size])
            return l3 + additional + self._zero_of_others()
        self._path_logs.build(y, y_pred)
        inputs = self._inputs_of_paths(x)
        added, of_teacher = self._added_loss(inputs[0], y_pred, values)
        runs = [
            functools.partial(
                self._run_hybrid, path, given, x, y, sample_weight, begun, of_teacher
            )
            for path, given in zip(self._paths[:-1], inputs, strict=True)
        ]
        losses, taken = self._losses_of_paths(runs)
        l3_total, *totals = self._sum_over_replicas([l3, *losses, *added])
        of_paths, of_added = totals[: len(losses)], totals[len(losses) :]
        # The means of L1 and of L2 over the teachers, or for both the one loss there is.
        of_kinds = of_paths[::2], of_paths[1::2] or of_paths
        alpha = self.balance(*(sum(kind) / len(kind) for kind in of_kinds), l3_total)
        alpha = ops.stop_gradient(ops.convert_to_tensor(alpha, "float32"))  # Eq. 2
        logged = of_paths
        if self.paths_per_step == 1:  # a loss may be infinite, and 0 times that is NaN
            logged = [ops.where(n > 0, of_paths[0], 0.0) for n in taken]
        counts = [1, *taken, 1, *[1] * len(added)]
        self._path_logs.update(
            [l3_total, *logged, alpha, *of_added], [batch_size * n for n in counts]
        )
        hybrid_loss = len(runs) / len(losses) * alpha * sum(losses)
        return hybrid_loss + l3 + additional + sum(added)

    def _inputs_of_paths(self, x):
        """The images of each path: a teacher's are made once for both of its paths.

        None where a step takes one path, which makes its own.
        """
        hybrid = self._paths[:-1]
        if self.paths_per_step == 1 and not self._addition:
            return [None] * len(hybrid)
        images = self._images(x)
        of_teachers = [path.inputs(images) for path in hybrid[::2]]
        return [of_teachers[i // 2] for i in range(len(hybrid))]

    def _losses_of_paths(self, runs):
        """The losses of the paths that a step takes, and a 1 or 0 for each path."""
        all_paths = self.student_batch_norm == "all"
        keeps = [
            *(self.student.non_trainable_variables if all_paths else ()),
            *(w for layer in self.adapters for w in layer.non_trainable_weights),
            *self._path_logs.variables_of_paths,
        ]
        if self.paths_per_step == 2:
            losses = self._run_again([lambda: [run() for run in runs]], keeps)
            return losses, [1] * len(runs)
        turn = ops.cast(ops.mod(self._count_of_steps(), len(runs)), "int32")
        loss = self._run_again(runs, keeps, turn)
        if _is_eager():
            # Weights that a step does not use would have no gradient, so that optimizers
            # with momentum leave them alone; in a graph they have.
            loss += self._zero_of_others()
        return [loss], [ops.cast(turn == i, "int32") for i in range(len(runs))]

    def _added_loss(self, inputs, y_pred, values):
        """The loss of `plus`, in a list that is empty without; the teacher's tensors."""
        addition = self._addition
        if addition is None:
            return [], None
        images, teacher_images = inputs[STUDENT], inputs[TEACHER]
        if values is None:
            values = self._run_again(
                [lambda: addition.of_student.run(images, training=True)]
            )
        student = addition.of(1, values, images, y_pred)
        (model,) = teacher_student.as_list(self.teacher)
        with precision.computing_in(self._dtype_of_teacher, model, addition.in_full):
            teacher_values, teacher = self._run_again(
                [lambda: addition.run_teacher(teacher_images)]
            )
        loss = addition.difference([ops.stop_gradient(x) for x in teacher], student)
        return [self._aggregate_additional_loss(loss)], teacher_values

    def _run_hybrid(self, path, inputs, x, y, sample_weight, begun, of_teacher):
        """The loss of a hybrid path, a float32 scalar; updates its metrics."""
        inputs = inputs or path.inputs(self._images(x))
        # So that a gradient to the images is never computed.
        inputs = {owner: ops.stop_gradient(images) for owner, images in inputs.items()}
        shares = (
            begun is not None
            and self.student_batch_norm == "plain"
            and path.begins_as(self._paths[-1])
        )
        if shares:
            start = begun
        elif of_teacher is not None and path.segments[0].owner == TEACHER:
            start = path.begun(inputs, _Constants(of_teacher), training=True)
        else:
            start = path.begin(inputs, training=True)
        y_pred = path.finish(inputs, start, training=True)
        self._path_logs.update_path(path.name, y, y_pred, sample_weight)
        return self._task_loss(x, y, y_pred, sample_weight)

    def _zero_of_others(self):
        """0, whose gradient to all adapters, and to the weights of `plus`, is 0."""
        of_student = {id(weight) for weight in self.student.trainable_weights}
        weights = [w for w in self.trainable_weights if id(w) not in of_student]
        return sum(ops.sum(0.0 * ops.cast(weight, "float32")) for weight in weights)

    def _count_of_steps(self):
        """How often the optimizer has updated the weights."""
        on_jax = self._iterations_on_jax
        return self.optimizer.iterations if on_jax is None else on_jax

    def compute_loss_and_updates(
        self, *args: Any, optimizer_variables: Any = None, **kwargs: Any
    ) -> Any:
        """As in Keras, which calls it on JAX: only there it has the optimizer's state."""
        if optimizer_variables is not None:
            state = zip(self.optimizer.variables, optimizer_variables, strict=True)
            with keras.StatelessScope(state_mapping=state):
                self._iterations_on_jax = ops.convert_to_tensor(self.optimizer.iterations)
        try:
            return super().compute_loss_and_updates(  # type: ignore[misc]
                *args, optimizer_variables=optimizer_variables, **kwargs
            )
        finally:
            self._iterations_on_jax = None

    def _with_path_logs(self, logs):
        logs = super()._with_path_logs(logs)
        if self.hybrid:
            return logs
        ended = [name for name in logs if name.startswith(_KINDS)]
        ended += ["balance", "transfer_loss"]
        return {name: value for name, value in logs.items() if name not in ended}

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "switch_points": serialize(self.switch_points),
            "balance": serialize(self.balance),
            "student_batch_norm": self.student_batch_norm,
            "track_paths": self.track_paths,
            "paths_per_step": self.paths_per_step,
            "teacher_dtype": self.teacher_dtype,
            "plus": _serialized_loss(self.plus),
            "adapter": self._serialized_adapter(),
        }

    def _serialized_adapter(self):
        if self.adapter is Adapter:
            return None
        return teacher_student.serialized(
            self.adapter, "adapter", "a class or a function"
        )


class _Constants(dict):
    """Tensors by symbol that have no gradient."""

    def __getitem__(self, symbol: int) -> Tensor:
        return ops.stop_gradient(super().__getitem__(symbol))


def _serialized_loss(loss):
    """The config of a loss that is not built: that is done with the networks."""
    config = keras.saving.serialize_keras_object(loss)
    return config and {k: v for k, v in config.items() if k != "build_config"}


def _check(student_batch_norm, paths_per_step, plus, teachers):
    if student_batch_norm not in ("plain", "all"):
        raise ValueError(
            '`student_batch_norm` must be "plain" or "all". Received: '
            f"student_batch_norm={student_batch_norm!r}"
        )
    if paths_per_step not in (1, 2):
        raise ValueError(
            "`paths_per_step` must be 1 or 2. Received: "
            f"paths_per_step={paths_per_step!r}"
        )
    if plus is None:
        return
    if len(teachers) > 1:
        raise ValueError(
            "`plus` must be left out with several teachers. Received: "
            f"plus={plus!r} and {len(teachers)} teachers"
        )
    if getattr(plus, "built", None) is not False or not hasattr(plus, "between"):
        raise TypeError(
            "`plus` must be a new loss of keras_hybrid.baselines, such as "
            f"AttentionTransfer(1000.0). Received: plus={plus!r}"
        )


def _is_eager():
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.executing_eagerly()
    return keras.backend.backend() == "torch"


def _for_each(teachers, argument, value):
    """The value for each teacher: of a list for several, or else the same for all."""
    if not isinstance(value, list):
        return [value] * len(teachers)
    if len(value) != len(teachers):
        raise ValueError(
            f"`{argument}` must have an entry for each of {len(teachers)} teachers. "
            f"Received: {argument}={value!r}"
        )
    return value


def _tell_of_prefix(student, switches):
    names = [(t.layer_name, s.layer_name) for t, s in switches]
    *before, (_, student_end), (teacher_end, joint) = names
    earlier = [*before, (teacher_end, student_end)]
    logging.warning(
        "The head of student %r takes only the prefix tokens of %r, such as a class "
        "token. On a path whose last stage is the teacher's these are the same for all "
        "images, so that it teaches the student little. Paths that meet earlier leave "
        "blocks of the student behind them%s",
        student.model.name,
        joint,
        f": switch_points={earlier!r}" if before else "",
    )
