"""A network's values before an activation function."""

import dataclasses

import keras

from keras_hybrid.graph import Step

_ACTIVATIONS = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.Softmax,
)


def before_activation(graph, symbol):
    """Finds what goes into the activation function that makes `symbol`.

    Args:
        graph: A `Graph`.
        symbol: Of one of its tensors.

    Returns:
        A `Graph` that computes the same, and the symbol of the tensor in it: `symbol`
        itself if there is no activation function.
    """
    steps = list(graph.steps)
    index = next(i for i, step in enumerate(steps) if symbol in step.outputs)
    step = steps[index]
    if isinstance(step.operation, _ACTIVATIONS):
        return graph, *step.inputs.values()
    activation = getattr(step.operation, "activation", keras.activations.linear)
    if activation is keras.activations.linear:
        return graph, symbol
    before = -1 - symbol  # the graph's own are not negative
    fields = {f.name: getattr(step, f.name) for f in dataclasses.fields(step)}
    steps[index] = _InTwo(**fields, before=before)
    return dataclasses.replace(graph, steps=tuple(steps)), before


@dataclasses.dataclass(frozen=True)
class _InTwo(Step):
    """A layer with an activation function, run apart from it.

    Attributes:
        before: Symbol of what goes into the function.
    """

    before: int

    def run(self, values, training=None):
        layer = self.operation
        activation, layer.activation = layer.activation, keras.activations.linear
        try:
            super().run(values, training)
        finally:
            layer.activation = activation
        (output,) = self.outputs
        values[self.before] = values[output]
        values[output] = activation(values[self.before])
