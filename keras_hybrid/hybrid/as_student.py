"""A model that to its users is its student in all but training."""

import contextlib

import keras
import numpy as np

from keras_hybrid.training.multi_worker import MultiWorkerFit

# What `compile` and Keras's `compute_loss` leave in a model for its loss and metrics.
_COMPILED = "compiled", "loss", "_compile_loss", "_compile_metrics", "_loss_tracker"


def _no_loss(*args):
    raise ValueError("No loss to compute. Provide a `loss` in `compile()`.")


_no_loss.metrics = []


def _of_student(name):
    return property(lambda self: getattr(self.student, name), doc="The student's own.")


class AsStudent(MultiWorkerFit, keras.Model):
    """Predicts, evaluates and exports as its `.student` does; subclasses train it.

    The loss and metrics that `compile` is given are lent to the student while a batch is
    judged, so that what it overrides of `keras.Model` counts: `compute_loss`, also one
    that calls `super().compute_loss`, `compute_metrics`, `metrics`, `test_step` and
    `predict_step`. Its own compile state is left as it is.
    """

    input, output = _of_student("input"), _of_student("output")
    inputs, outputs = _of_student("inputs"), _of_student("outputs")
    input_shape, output_shape = _of_student("input_shape"), _of_student("output_shape")

    def call(self, inputs, training=None):
        return self.student(inputs, training=training)

    def compute_output_spec(self, *args, **kwargs):
        return self.student.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args, **kwargs):
        return self.student.compute_output_shape(*args, **kwargs)

    def predict(self, *args, **kwargs):
        self._sync()
        return self.student.predict(*args, **kwargs)

    def predict_on_batch(self, x):
        self._sync()
        return self.student.predict_on_batch(x)

    def predict_step(self, *args):
        if keras.backend.backend() == "jax":  # whose state is that of this model
            return super().predict_step(*args)
        return self.student.predict_step(*args)

    def export(self, filepath, *args, **kwargs):
        self._sync()
        return self.student.export(filepath, *args, **kwargs)

    def quantize(self, *args, **kwargs):
        """Quantizes the student, which then trains as little as any quantized model."""
        self.student.quantize(*args, **kwargs)
        self.train_function = self.test_function = None

    def _sync(self):
        if keras.backend.backend() == "jax":  # variables are behind while `fit` runs
            self.jax_state_sync()

    def make_train_function(self, force=False):
        if force or self.train_function is None:
            super().make_train_function(force)
            self.train_function = self._lending(self.train_function, training=True)

    def make_test_function(self, force=False):
        if force or self.test_function is None:
            super().make_test_function(force)
            self.test_function = self._lending(self.test_function, training=False)

    def _lending(self, function, training):
        # Around all replicas: one of them may wait for the others within its loss.
        def lending(*args):
            with self._lent(**self._lent_losses(training)):
                return function(*args)

        return lending

    def _lent_losses(self, training):
        """In training `_additional_loss` has them; here they would count once a path."""
        nothing = [np.zeros((), "float32")]
        return {"_losses_override": nothing if training else self._losses_override}

    @contextlib.contextmanager
    def _lent(self, **more):
        """The student, compiled as this model is."""
        state, own = vars(self.student), vars(self)
        lent = {**{name: own[name] for name in _COMPILED}, **more}
        before = {name: state[name] for name in lent}
        state.update(lent)
        try:
            yield self.student
        finally:
            state.update(before)

    def _task_loss(self, x, y, y_pred, sample_weight, training=True):
        """The student's loss, a float32 scalar; in training without additional losses."""
        lent = self._lent_losses(training)
        if training and self._compile_loss is None:
            lent["_compile_loss"] = _no_loss
        with self._lent(**lent) as student:
            loss = student._compute_loss(x, y, y_pred, sample_weight, training=training)
        return keras.ops.cast(loss, "float32")

    def test_step(self, *args):
        if keras.backend.backend() == "jax":
            return super().test_step(*args)
        with self._lent(**self._lent_losses(training=False)) as student:
            return self._with_an_axis(student.test_step(*args))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        with self._lent() as student:
            logs = student.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        return self._with_an_axis(logs)

    @property
    def metrics(self):
        with self._lent() as student:
            metrics = [*student.metrics, *super().metrics]
        return list({id(metric): metric for metric in metrics}.values())

    def get_metrics_result(self):
        with self._lent() as student:
            return student.get_metrics_result()

    def _flatten_metrics_in_order(self, logs):
        with self._lent() as student:
            return student._flatten_metrics_in_order(logs)
