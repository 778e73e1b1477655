"""What training with a teacher logs in addition to the student's metrics."""

import copy
from collections.abc import Sequence
from typing import Any

import keras

from keras_hybrid.training.types import Tensor


class PathLogs:
    """Means of the losses and, with `track_paths`, the metrics of each hybrid path.

    Args:
        names: Log names of the scalars that `update` takes.
        paths: Names of the hybrid paths.

    Attributes:
        trackers: Log name -> running mean over the epoch.
        compiled: Hybrid path -> its copy of the compiled metrics; empty if they are not
            logged.
    """

    def __init__(self, names: Sequence[str], paths: Sequence[str] = ()) -> None:
        self.paths = paths
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.compiled: dict[str, keras.Metric] = {}

    @property
    def metrics(self) -> list[keras.Metric]:
        return [*self.trackers.values(), *self.compiled.values()]

    @property
    def variables_of_paths(self) -> list[keras.Variable]:
        return [v for metrics in self.compiled.values() for v in metrics.variables]

    def compile(
        self, compiled_metrics: keras.Metric, metrics: Any, weighted_metrics: Any
    ) -> None:
        """Copies the metrics of a model for each hybrid path.

        Args:
            compiled_metrics: The `CompileMetrics` that Keras has made of them.
            metrics, weighted_metrics: As passed to the model's `compile`.
        """
        new_metrics = type(compiled_metrics)
        self.compiled = {
            name: new_metrics(
                _copy(metrics),
                _copy(weighted_metrics),
                name=name,
                output_names=compiled_metrics.output_names,
            )
            for name in self.paths
        }

    def build(self, y: Any, y_pred: Any) -> None:
        for metrics in self.compiled.values():
            if not metrics.built:
                metrics.build(y, y_pred)
                # Some metrics, such as F1Score, create their variables when they are
                # first updated.
                with keras.StatelessScope():
                    metrics.update_state(y, y_pred)

    def update(self, values: Sequence[Tensor], counts: Sequence[int | Tensor]) -> None:
        """Adds a batch to the running means.

        Args:
            values: Scalars, one for each name, or for the first of them.
            counts: Number of images that each is the mean of.
        """
        batch = zip(values, counts, strict=True)
        for tracker, (value, count) in zip(self.trackers.values(), batch):
            tracker.update_state(value, sample_weight=count)

    def update_path(self, path: str, y: Any, y_pred: Any, sample_weight: Any) -> None:
        """Adds a batch to the metrics of a hybrid path, if they are logged."""
        if self.compiled:
            self.compiled[path].update_state(y, y_pred, sample_weight)

    def results(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns two dicts, log name -> value: the losses, and the paths' metrics."""
        losses = {name: metric.result() for name, metric in self.trackers.items()}
        per_path = {}
        for path, metrics in self.compiled.items():
            of_path = metrics.result()
            per_path.update({f"{path}_{name}": of_path[name] for name in of_path})
        return losses, per_path


def _copy(metrics):
    def copy_of(metric):
        if not isinstance(metric, keras.Metric):
            return metric
        # Keras would copy a metric by its config, which not every metric has.
        new = object.__new__(type(metric))
        vars(new).update(copy.deepcopy(vars(metric), {id(metric): new}))
        return new

    return keras.tree.map_structure(copy_of, metrics)
