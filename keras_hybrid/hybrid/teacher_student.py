"""The base class of models that train a student with the help of a teacher."""

import contextlib
import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

import keras
from keras import ops
from keras.src.saving.serialization_lib import serialize_with_public_fn

from keras_hybrid.hybrid import checks
from keras_hybrid.hybrid.as_student import AsStudent
from keras_hybrid.hybrid.cuts import Cut
from keras_hybrid.hybrid.graph import functional
from keras_hybrid.hybrid.path_logs import PathLogs
from keras_hybrid.hybrid.preprocessing import Preprocessing, function_of
from keras_hybrid.hybrid.stages import Network, has_backbone
from keras_hybrid.training.gradient_step import GradientStep
from keras_hybrid.training.types import Tensor


class TeacherStudent(GradientStep, AsStudent):
    """Trains a student with a frozen teacher; subclasses define the loss of a step.

    Args:
        teacher: A model, or a list of them.
        student: The model to train; it has passed `check_pair` with each teacher.
        teacher_preprocessing: Layer or function applied to the images before the
            teacher, or None; a list of them for a list of teachers.
        path_logs: The `PathLogs` of what a step logs besides the loss.
        **kwargs: Arguments of `keras.Model`.
    """

    def __init__(
        self,
        teacher: keras.Model | Sequence[keras.Model],
        student: keras.Model,
        teacher_preprocessing: Preprocessing | None | Sequence[Preprocessing | None],
        path_logs: PathLogs,
        **kwargs: Any,
    ) -> None:
        # The student's policy, so that `compile` scales the loss of a float16 student.
        super().__init__(**{"dtype": student.dtype_policy, **kwargs})
        # The student casts the images itself. The second line lets a call take arrays.
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        self.teacher = teacher
        self.student = student
        self.teacher_preprocessing = teacher_preprocessing
        self._freeze_teacher()
        if hasattr(student, "output_names"):
            self.output_names = student.output_names
        self._path_logs = path_logs
        self._evaluates = False
        self.built = True

    @property
    def trainable(self) -> bool:
        """Whether the student is trained; the teacher never is."""
        return super().trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.Model.trainable.fset(self, value)
        self._freeze_teacher()

    def compile(self, *args: Any, **kwargs: Any) -> None:
        self._freeze_teacher()
        super().compile(*args, **kwargs)
        if type(self.student).compute_loss is keras.Model.compute_loss:
            checks.check_reductions(self.loss)

    def get_compile_config(self) -> dict[str, Any] | None:
        config = super().get_compile_config()
        if not self.compiled:
            return config
        # Keras's config has the optimizer as it was given to `compile`, before scaling.
        optimizer = keras.saving.serialize_keras_object(self.optimizer)
        return {**config, "optimizer": optimizer, "auto_scale_loss": False}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        try:
            inspect.signature(self.compile).bind(**config)
        except TypeError:
            warnings.warn(
                f"The loaded model is not compiled: `compile` of {type(self).__name__} "
                "has arguments of its own. Call it, or override `get_compile_config` and "
                "`compile_from_config` as well.",
                stacklevel=2,
            )
            return
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def _freeze_teacher(self):
        for teacher in as_list(self.teacher):
            teacher.trainable = False
            # Setting `trainable` does nothing where it is False already, as in a loaded
            # subclass, whose layers are new and trainable.
            for weight in teacher.weights:
                weight.trainable = False
        for preprocessing in as_list(self.teacher_preprocessing):
            if isinstance(preprocessing, keras.Layer):
                preprocessing.trainable = False

    def _images(self, x):
        """The images (B, H, W, C) of a batch, found and checked as by the student."""
        student = self.student.backbone if has_backbone(self.student) else self.student
        student._assert_input_compatibility(x)
        trunk = functional(student)
        if trunk is None:  # a subclass, for which "kd" compares only the outputs
            return keras.tree.flatten(x)[0]
        if isinstance(x, dict):
            x = x[trunk.inputs[0].name]
        (images,) = trunk._adjust_input_rank(keras.tree.flatten(x)[:1])
        return ops.cast(images, trunk.inputs[0].dtype)

    def _additional_loss(self):
        losses = [self._aggregate_additional_loss(loss) for loss in self.losses]
        return sum((ops.cast(loss, "float32") for loss in losses), 0.0)

    def _run_again(self, functions, keeps=(), index=0):
        """Returns what one of `functions` returns, which run the student's layers again.

        Of the variables that it would update, only `keeps` and the random state are
        updated. The other functions are not run; `index` may be a tensor, and each of
        several functions returns a float32 scalar.
        """
        variables = [*keeps, *self._random_state]
        if len(functions) == 1:
            result, values = self._run_stateless(functions[0], variables)
        else:
            # In a branch, TensorFlow computes the gradient of every variable it reads.
            run = functools.partial(
                self._run_stateless,
                keeps=variables,
                constants=self.non_trainable_variables,
            )
            # Conditions one after the other. In XLA on TensorFlow 2.21, `ops.switch` and
            # conditions in conditions fail if the size of the batch is unknown.
            result, values = ops.zeros((), "float32"), [v.value for v in variables]
            for i, function in enumerate(functions):
                result, values = ops.cond(
                    index == i,
                    functools.partial(run, function),
                    lambda before=(result, values): before,
                )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return result

    def _run_stateless(self, function, keeps, constants=()):
        """What `function` returns, and what it would have made of the variables `keeps`.

        It updates no variable, and has no gradient to the variables `constants`.
        """
        # On JAX, Keras trains in a scope of its own, whose values an inner scope lacks.
        known = ()
        if keras.backend.backend() == "jax":
            known = *self.variables, *self.metrics_variables, *keeps
        state = [(v, v.value) for v in known]
        state += [(v, ops.stop_gradient(v.value)) for v in constants]
        with keras.StatelessScope(state_mapping=state) as scope:
            result = function()
        values = [scope.get_current_value(variable) for variable in keeps]
        return result, [
            variable.value if value is None else value
            for variable, value in zip(keeps, values, strict=True)
        ]

    @property
    def _replica_count(self):
        if keras.backend.backend() != "tensorflow":
            return 1
        return self.distribute_strategy.num_replicas_in_sync

    def _sum_over_replicas(self, losses):
        """Losses of the global batch; Keras has divided each by the replica count."""
        if self._replica_count == 1:
            return losses
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, losses)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Tensor]:
        self._path_logs.build(y, y_pred)
        logs = super().compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        return self._with_an_axis(self._with_path_logs(logs))

    @property
    def metrics(self) -> list[keras.Metric]:
        return [*super().metrics, *self._path_logs.metrics]

    def get_metrics_result(self) -> dict[str, Tensor]:
        """Returns log name -> value: the losses, alpha, then the compiled metrics."""
        return self._with_path_logs(super().get_metrics_result())

    def _with_path_logs(self, logs):
        if self._evaluates:
            return logs
        first = {"loss": self._loss_tracker.result()} if self.compiled else {}
        paths, per_path = self._path_logs.results()
        return {**first, **paths, **logs, **first, **per_path}

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with self._evaluating():
            return super().evaluate(*args, **kwargs)

    def test_step(self, *args: Any) -> Any:
        with self._evaluating():
            return super().test_step(*args)

    @contextlib.contextmanager
    def _evaluating(self):
        """Without path logs, and without hybrid losses whatever `compute_loss` is told.

        Keras tells it that it evaluates only where its signature has `training`.
        """
        before, self._evaluates = self._evaluates, True
        try:
            yield
        finally:
            self._evaluates = before

    @property
    def _random_state(self):
        return random_state(self.student)

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)  # those of a subclass
        for i, variable in enumerate(self._random_state):
            store[f"random_state_{i}"] = variable

    def load_own_variables(self, store: Any) -> None:
        keys = store.keys()  # all that the store of a file has of a dict
        names = [name for name in keys if not name.startswith("random_state_")]
        super().load_own_variables({name: store[name] for name in names})
        for i, variable in enumerate(self._random_state):
            variable.assign(store[f"random_state_{i}"])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "name": self.name,
            "teacher": _each(_serialized_network, self.teacher),
            "student": _serialized_network(self.student),
            "teacher_preprocessing": _each(
                _serialized_preprocessing, self.teacher_preprocessing
            ),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        # Without a custom object scope, which would hide the caller's.
        deserialize = keras.saving.deserialize_keras_object
        return cls(
            **{
                key: deserialize(value, custom_objects=custom_objects)
                for key, value in config.items()
                if value is not None
            }
        )


def as_list(value: Any) -> list[Any]:
    """Returns a list or tuple as a list, and anything else in a list of its own."""
    return list(value) if isinstance(value, list | tuple) else [value]


def _each(function, value):
    if isinstance(value, list | tuple):
        return [function(item) for item in value]
    return function(value)


def network_of_teacher(
    teacher: keras.Model, student: Network, dtype: str | None = None
) -> Network:
    """Returns the `Network` of a teacher, after checking that it can be joined.

    Args:
        teacher: The teacher.
        student: The `Network` of the student.
        dtype: What the teacher computes in, see `precision`.

    Raises:
        TypeError, ValueError: The models cannot be joined; the message says why.
    """
    network = Network(teacher, "teacher", dtype)
    checks.check_pair(teacher, student.model)
    checks.check_parts(student.model)
    return network


def random_state(model: keras.Layer) -> list[keras.Variable]:
    """The seeds of random layers, which Keras counts as variables but not as weights."""
    others = {id(v) for v in (*model.weights, *model.metrics_variables)}
    return [v for v in model.variables if id(v) not in others]


def _serialized_network(model):
    """The model's config; without `compile_config` if its optimizer was never built.

    Keras could not load that.
    """
    config = keras.saving.serialize_keras_object(model)
    of_keras = type(model).compile_from_config is keras.Model.compile_from_config
    if of_keras and model.compiled and not model.optimizer.built:
        config.pop("compile_config")
    return config


def serialized(value: Any, argument: str, kinds: str) -> Any:
    """Serializes a layer by its config, and a function or a class by its name.

    Args:
        value: The layer, function or class.
        argument: Name of the argument, for errors.
        kinds: What the argument can be, for errors.

    Raises:
        TypeError: `value` has no name.
    """
    if isinstance(value, keras.Layer):
        return keras.saving.serialize_keras_object(value)
    if getattr(value, "__name__", "<lambda>") != "<lambda>":
        return serialize_with_public_fn(value, keras.saving.get_registered_name(value))
    try:
        return keras.saving.serialize_keras_object(value)
    except TypeError:
        raise TypeError(
            f"`{argument}` must be {kinds} with a name to be saved: wrap it with `def`, "
            "and pass that to `load_model` in `custom_objects`. Received: "
            f"{argument}={value!r}"
        ) from None


def _serialized_preprocessing(value):
    return serialized(value, "teacher_preprocessing", "a layer or a function")


def images_of_teacher(
    teacher: Network,
    student: Network,
    switches: Sequence[tuple[Cut, Cut]],
    preprocessing: Preprocessing | None,
) -> Callable[[Tensor], Tensor] | None:
    """Returns the function from the student's images to the teacher's, None for equal.

    It resizes what comes of the preprocessing for a teacher that takes one size only.

    Raises:
        ValueError: The two cannot take the same images. The networks themselves have not
            run, only the preprocessing.
    """
    size = tuple(student.graph.input_spec.shape[1:3])
    channels = teacher.graph.input_spec.shape[-1], student.graph.input_spec.shape[-1]
    received = (
        f"Received: teacher={teacher.model.name!r} for {channels[0]} channels and "
        f"student={student.model.name!r} for {channels[1]}"
    )
    teacher_size, preprocess = size, function_of(preprocessing)
    if preprocess is not None:
        probe = tuple(n or checks.UNKNOWN_IMAGE_SIZE for n in size)
        images = ops.zeros((1, *probe, channels[1]), student.graph.input_spec.dtype)
        shape = ops.shape(preprocess(images))
        channels = channels[0], shape[-1]
        received = f"Received images of shape {tuple(shape)} from it"
        teacher_size = tuple(
            n if known else None for n, known in zip(shape[1:3], size, strict=True)
        )
    if channels[0] != channels[1]:
        raise ValueError(
            "`teacher` and `student` must take images with the same number of channels, "
            f"or `teacher_preprocessing` must make them fit. {received}"
        )
    if not teacher.takes(teacher_size):
        only = teacher.graph.input_spec.shape[1:3]
        if preprocessing is None:
            raise ValueError(
                "`teacher_preprocessing` must be given for a teacher that takes images "
                f"of (height, width) {only} only: the normalization that it was trained "
                "with, such as 'torch', or 'inside' for none. Images are then resized. "
                f"Received: teacher={teacher.model.name!r} and "
                f"student={student.model.name!r} for images of {size}"
            )
        teacher_size, preprocess = only, function_of(preprocessing, only)
    checks.check_pixels(teacher, teacher_size, [t for t, _ in switches])
    checks.check_pixels(student, size, [s for _, s in switches])
    return preprocess
