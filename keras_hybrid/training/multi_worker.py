"""`fit` on several machines."""

import keras


class MultiWorkerFit:
    """Makes a `keras.Model` train under `tf.distribute.MultiWorkerMirroredStrategy`.

    Keras 3.15 alone fails there (keras issue 20585) for two causes, each undone here: to
    build the model it averages a batch over replicas, which images of another machine
    are not there for; and it averages logs along an axis that scalars do not have.

    >>> class Model(MultiWorkerFit, keras.Model): ...
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if iterator is not None and _several_machines(self):
            replicas = next(next(batches for _, _, batches in iterator))
            data_batch = keras.tree.map_structure(self._first_replica, replicas)
            iterator = None
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)

    def _first_replica(self, value):
        return self.distribute_strategy.experimental_local_results(value)[0]

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logs = super().compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        return self._with_an_axis(logs)

    def _with_an_axis(self, logs):
        if not _several_machines(self):
            return logs
        return {
            name: keras.ops.expand_dims(value, 0) if value.ndim == 0 else value
            for name, value in logs.items()
        }


def _several_machines(model):
    if keras.backend.backend() != "tensorflow":
        return False
    resolver = model.distribute_strategy.cluster_resolver
    cluster = resolver.cluster_spec().as_dict() if resolver else {}
    return sum(len(cluster.get(job, ())) for job in ("chief", "worker")) > 1
