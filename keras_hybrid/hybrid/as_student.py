"""A model that behaves as its student in everything except training."""

import contextlib
import os
from typing import Any

import keras
import numpy as np

from keras_hybrid.training.multi_worker import MultiWorkerFit
from keras_hybrid.training.types import Tensor

# Attributes in which `compile` and `compute_loss` of Keras keep the loss and metrics.
_COMPILED = "compiled", "loss", "_compile_loss", "_compile_metrics", "_loss_tracker"


def _no_loss(*args):
    """Stands for the compiled loss where there is none.

    Keras raises this error itself only where there are no other losses either, and here
    `_losses_override` always holds one.
    """
    raise ValueError("No loss to compute. Provide a `loss` in `compile()`.")


_no_loss.metrics = []  # type: ignore[attr-defined]


def _of_student(name):
    return property(lambda self: getattr(self.student, name), doc="That of the student.")


class AsStudent(MultiWorkerFit, keras.Model):
    """Predicts, evaluates and exports as its `.student` does; subclasses train it.

    While the loss and metrics of a batch are computed, the student has those that were
    passed to this model's `compile`, so that the methods of `keras.Model` that it
    overrides take effect: `compute_loss`, even if it calls `super().compute_loss`,
    `compute_metrics`, `metrics`, `test_step` and `predict_step`. Afterwards the student
    has its own compile state again.
    """

    input, output = _of_student("input"), _of_student("output")
    inputs, outputs = _of_student("inputs"), _of_student("outputs")
    input_shape, output_shape = _of_student("input_shape"), _of_student("output_shape")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.student(inputs, training=training)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.student.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        return self.student.compute_output_shape(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        if not self._is_students("predict"):
            return super().predict(*args, **kwargs)
        self._sync()
        return self.student.predict(*args, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        if not self._is_students("predict_on_batch"):
            return super().predict_on_batch(x)
        self._sync()
        return self.student.predict_on_batch(x)

    def _is_students(self, name):
        """Whether a method of prediction is called on the student.

        On JAX a step uses only the variables of its own model.
        """
        own = getattr(type(self.student), name) is not getattr(keras.Model, name)
        return own or keras.backend.backend() == "jax"

    def predict_step(self, *args: Any) -> Any:
        if keras.backend.backend() == "jax":  # the state in `args` is that of this model
            return super().predict_step(*args)
        return self.student.predict_step(*args)

    def export(self, filepath: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        self._sync()
        return self.student.export(filepath, *args, **kwargs)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Quantizes the student, which then trains no better than any quantized model."""
        self.student.quantize(*args, **kwargs)
        self.train_function = self.test_function = self.predict_function = None

    def _sync(self):
        if keras.backend.backend() == "jax":  # variables are out of date during `fit`
            self.jax_state_sync()

    def make_train_function(self, force: bool = False) -> None:
        if force or self.train_function is None:
            super().make_train_function(force)
            self.train_function = self._with_compiled_student(
                self.train_function, training=True
            )

    def make_test_function(self, force: bool = False) -> None:
        if force or self.test_function is None:
            super().make_test_function(force)
            self.test_function = self._with_compiled_student(
                self.test_function, training=False
            )

    def _with_compiled_student(self, function, training):
        # Around all replicas, since one may wait for the others while it computes a loss.
        def wrapped(*args):
            with self._compiled_student(**self._losses_override_for(training)):
                return function(*args)

        return wrapped

    def _losses_override_for(self, training):
        """No additional losses in training, where they would count once per path.

        There `_additional_loss` adds them.
        """
        nothing = [np.zeros((), keras.config.floatx())]
        return {"_losses_override": nothing if training else self._losses_override}

    @contextlib.contextmanager
    def _compiled_student(self, **more):
        """Yields the student with the compile state of this model."""
        state, own = vars(self.student), vars(self)
        compiled = {**{name: own[name] for name in _COMPILED}, **more}
        before = {name: state[name] for name in compiled}
        state.update(compiled)
        try:
            yield self.student
        finally:
            state.update(before)

    def _task_loss(self, x, y, y_pred, sample_weight, training=True):
        """The student's loss, a float32 scalar; in training without additional losses."""
        state = self._losses_override_for(training)
        if training and self._compile_loss is None:
            state["_compile_loss"] = _no_loss
        with self._compiled_student(**state) as student:
            loss = student._compute_loss(x, y, y_pred, sample_weight, training=training)
        return keras.ops.cast(loss, "float32")

    def test_step(self, *args: Any) -> Any:
        is_own = type(self.student).test_step is not keras.Model.test_step
        if not is_own or keras.backend.backend() == "jax":
            return super().test_step(*args)
        state = self._losses_override_for(training=False)
        with self._compiled_student(**state) as student:
            return self._with_an_axis(student.test_step(*args))

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Tensor]:
        with self._compiled_student() as student:
            logs = student.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        return self._with_an_axis(logs | self._own_results())

    @property
    def metrics(self) -> list[keras.Metric]:
        with self._compiled_student() as student:
            metrics = [*student.metrics, *super().metrics]
        return list({id(metric): metric for metric in metrics}.values())

    def get_metrics_result(self) -> dict[str, Tensor]:
        with self._compiled_student() as student:
            return student.get_metrics_result() | self._own_results()

    def _own_results(self):
        """Of metrics that a subclass of this model has."""
        return {metric.name: metric.result() for metric in self._metrics}

    def _flatten_metrics_in_order(self, logs):
        # First the student's, then others as in `metrics`, and thus as `metrics_names`.
        with self._compiled_student() as student:
            known = {id(metric) for metric in student.metrics}
            names = [m.name for m in self.metrics if id(m) not in known]
            others = {name: logs[name] for name in names if name in logs}
            rest = {name: logs[name] for name in logs if name not in others}
            first = keras.tree.flatten(student._flatten_metrics_in_order(rest))
        values = [*first, *others.values()]
        return values[0] if len(values) == 1 else values
