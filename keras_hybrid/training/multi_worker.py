"""`fit` on several machines."""

from typing import Any

import keras

from keras_hybrid.training.types import Tensor


class MultiWorkerFit:
    """Makes a `keras.Model` train under `tf.distribute.MultiWorkerMirroredStrategy`.

    Keras 3.15 on its own fails there (keras issue 20585) for two reasons, both of which
    are fixed here: to build the model, it averages a batch over replicas, but cannot read
    the images of another machine; and it averages logs along an axis that scalars lack.

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

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Tensor]:
        logs = super().compute_metrics(  # type: ignore[misc]
            x, y, y_pred, sample_weight=sample_weight
        )
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
