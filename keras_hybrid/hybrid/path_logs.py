"""What training with a teacher logs in addition to the student's metrics."""

import copy
from collections.abc import Mapping, Sequence
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
            name: new_metrics(_copy(metrics), _copy(weighted_metrics), name=name)
            for name in self.paths
        }

    def build(self, y: Any, y_pred: Any) -> None:
        for metrics in self.compiled.values():
            if not metrics.built:
                metrics.build(y, y_pred)

    def update(
        self,
        values: Sequence[Tensor],
        batch_size: int | Tensor,
        y: Any = None,
        predictions: Mapping[str, Any] | None = None,
        sample_weight: Any = None,
    ) -> None:
        """Adds a batch to the logs.

        Args:
            values: Scalars, one for each name.
            batch_size: Number of images in the batch, or in this replica's share of it.
            y, sample_weight: Targets and sample weights, as in `fit`.
            predictions: Hybrid path -> its predictions, required after `compile`.
        """
        for tracker, value in zip(self.trackers.values(), values, strict=True):
            tracker.update_state(value, sample_weight=batch_size)
        for path, metrics in self.compiled.items():
            metrics.update_state(y, predictions[path], sample_weight)  # type: ignore[index]

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
