"""What training beside a teacher logs besides the metrics of the student."""

import copy

import keras

from keras_hybrid.hybrid.paths import STUDENT_FIRST, TEACHER_FIRST


class PathLogs:
    """Losses and the like, and for `track_paths` the metrics of each path.

    Args:
        names: What to log.

    Attributes:
        trackers: Log name -> running mean over the epoch.
        compiled: Hybrid path -> its copy of the compiled metrics; empty without.
    """

    def __init__(self, names):
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.compiled = {}

    @property
    def metrics(self):
        return [*self.trackers.values(), *self.compiled.values()]

    def compile(self, compiled_metrics, metrics, weighted_metrics):
        """Copies what `compile` was given for each hybrid path."""
        new_metrics = type(compiled_metrics)
        self.compiled = {
            name: new_metrics(_copy(metrics), _copy(weighted_metrics), name=name)
            for name in (STUDENT_FIRST, TEACHER_FIRST)
        }

    def build(self, y, y_pred):
        for metrics in self.compiled.values():
            if not metrics.built:
                metrics.build(y, y_pred)

    def update(self, values, batch_size, y=None, predictions=None, sample_weight=None):
        """Takes in a batch.

        Args:
            values: Scalars, one for each name.
            batch_size: Images in the batch; on several replicas in this one's share.
            y, sample_weight: As in `fit`.
            predictions: Hybrid path -> its predictions, given that metrics are compiled.
        """
        for tracker, value in zip(self.trackers.values(), values, strict=True):
            tracker.update_state(value, sample_weight=batch_size)
        for path, metrics in self.compiled.items():
            metrics.update_state(y, predictions[path], sample_weight)

    def results(self):
        """Log name -> value: of the losses and alpha, and of the paths' metrics."""
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
        # Keras copies a metric by its config, which not every one has.
        new = object.__new__(type(metric))
        vars(new).update(copy.deepcopy(vars(metric), {id(metric): new}))
        return new

    return keras.tree.map_structure(copy_of, metrics)
