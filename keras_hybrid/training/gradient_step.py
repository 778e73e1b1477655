"""One gradient step, with the same result on one device and on several."""

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_hybrid.training.types import Tensor


class GradientStep:
    """Makes a `keras.Model` train to the same weights on N replicas as on one device.

    Keras 3.15 on its own clips the gradients of each replica before it sums them, checks
    for overflow on the first replica only, and cannot accumulate gradients on several.
    Here the gradients are summed first, and then processed as Keras does on one device,
    in the same order: check, unscale, accumulate, clip, update.

    >>> class Model(GradientStep, keras.Model): ...
    """

    def train_step(self, *args: Any) -> Any:
        """Takes one step on a batch. On JAX and PyTorch it is Keras's own."""
        if keras.backend.backend() != "tensorflow":
            return super().train_step(*args)  # type: ignore[misc]
        with _new_variables_outside():
            return self._train_step(*args)

    def _train_step(self, data):
        import tensorflow as tf

        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self._clear_losses()
        if not self.optimizer.built:  # until then the loss scale is a constant
            with tf.init_scope():  # some optimizers set the values of their variables
                self.optimizer.build(self.trainable_variables)
        variables = self._variables_of_step()
        # Record only what depends on a trainable weight: not the teacher's first stage,
        # nor frozen first stages of the student.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in variables])
            loss, y_pred = self._training_loss(x, y, sample_weight)
            self._loss_tracker.update_state(
                loss * self.distribute_strategy.num_replicas_in_sync,
                sample_weight=ops.shape(keras.tree.flatten(x)[0])[0],
            )
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, variables)
        apply_gradients(self.optimizer, gradients, variables)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _variables_of_step(self):
        """The variables that the loss of a step depends on."""
        return self.trainable_variables

    def _training_loss(self, x, y, sample_weight):
        """The loss of a step, a float32 scalar, and the predictions."""
        y_pred = self(x, training=True)
        loss = self._compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
        )
        return loss, y_pred


def apply_gradients(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[Tensor | None],
    variables: Sequence[keras.Variable],
) -> None:
    """Updates `variables` with the gradients of the global batch.

    Args:
        optimizer: A `keras.optimizers.Optimizer`.
        gradients: Gradients of the loss of this replica's share of the batch, scaled by
            `optimizer.scale_loss`; None where the loss does not depend on a variable.
        variables: Trainable `keras.Variable`s, one for each gradient.
    """
    import tensorflow as tf

    if not tf.distribute.has_strategy():
        optimizer.apply_gradients(zip(gradients, variables))
        return
    replica = tf.distribute.get_replica_context()
    known = [gradient for gradient in gradients if gradient is not None]
    sums = iter(replica.all_reduce(tf.distribute.ReduceOp.SUM, known))
    gradients = [None if gradient is None else next(sums) for gradient in gradients]

    def update(strategy, gradients):
        # The sums are the same on all replicas.
        gradients = [strategy.experimental_local_results(g)[0] for g in gradients]
        with _updates_across_replicas(strategy):
            if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
                # Its `apply` has to run on each replica.
                optimizer._common_apply(gradients, variables)
            else:
                optimizer.apply_gradients(zip(gradients, variables))

    replica.merge_call(update, args=(gradients,))


@contextlib.contextmanager
def _new_variables_outside():
    """Creates new variables of optimizers and metrics outside the enclosing function.

    A `tf.function` that creates variables is traced twice, which takes as long as about
    thirty steps of a ResNet-50 that teaches a MobileNet. With a strategy, Keras has
    already created them.
    """
    import tensorflow as tf

    def create(next_creator, **kwargs):
        with tf.init_scope():
            kwargs["experimental_enable_variable_lifting"] = False
            return next_creator(**kwargs)

    if tf.distribute.has_strategy():
        yield
        return
    with tf.variable_creator_scope(create):
        yield


@contextlib.contextmanager
def _updates_across_replicas(strategy):
    """Lets an optimizer run once for all replicas, as it does on one device.

    Where there is no merge call, Keras's optimizers update variables through the strategy
    directly. Only in the cross-replica context may they do so inside a condition, such as
    "no gradient is infinite", and without a further sum over replicas.
    """
    extended = strategy.extended
    extended._use_merge_call = lambda: False
    try:
        yield
    finally:
        del extended._use_merge_call
