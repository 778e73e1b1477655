"""A network's values before an activation function."""

import dataclasses
from typing import Any

import keras
from keras import layers

from keras_hybrid.baselines.elementwise import effect
from keras_hybrid.hybrid.graph import Step

# Layers that can do without the activation function that they have inside: of exactly
# these classes, since a subclass may use its `activation` in another way.
_WITH_ACTIVATION = (
    layers.Conv2D,
    layers.Conv2DTranspose,
    layers.DepthwiseConv2D,
    layers.SeparableConv2D,
    layers.Dense,
    layers.EinsumDense,
)
# Layers and ops of Keras that leave numbers as they are, in another place. The largest of
# four is also the largest behind a function that rises, as a ReLU.
_MOVES = "Concatenate", "Reshape", "Permute", "Transpose", "MaxPooling2D", "MaxPool"
# Layers of Keras that can hold anything.
_OPAQUE = (
    keras.Model,
    layers.Lambda,
    layers.Wrapper,
    layers.TFSMLayer,
    layers.JaxLayer,
    layers.TorchModuleWrapper,
)


def before_activation(graph, symbol):
    """Finds what goes into the activation function that makes `symbol`.

    An activation function is what acts on each number of a map by itself and is not
    affine, be it a layer, an op or several ops, as `x * sigmoid(x)`; this is seen from
    its values. Behind it may come what changes nothing in inference, as `Dropout`,
    concatenation and max pooling. No layer of the network is changed.

    Args:
        graph: A `Graph`.
        symbol: Of one of its tensors.

    Returns:
        A `Graph` that computes the same, and the symbol of the tensor in it: `symbol`
        itself if there is no activation function.

    Raises:
        ValueError: `symbol` comes from a layer that one cannot look into.
    """
    maker = next((s for s in graph.steps if symbol in s.outputs), None)
    if maker is None:
        return graph, symbol
    if type(maker.operation) in _WITH_ACTIVATION:
        return _without_activation(graph, maker)
    if _is_of_keras(maker.operation) and type(maker.operation).__name__ in _MOVES:
        return _moved(graph, maker)
    if isinstance(maker.operation, layers.PReLU):  # its weights may want one size of map
        return graph, *maker.inputs.values()
    source, steps = _from_a_single_tensor(graph, symbol)
    seen = effect(steps, source, _spec(graph, source), symbol)
    if seen.is_activation:
        return graph, source
    if not seen.is_affine and _is_opaque(maker.operation):
        raise ValueError(
            "A map before its activation function must be made by layers that can be "
            f"told apart. Received: {maker.name!r} ({type(maker.operation).__name__}), "
            "which ends a stage and may have an activation function inside. Put that "
            "into a layer of its own, name other layers in `switch_points`, or use a "
            'method that compares maps as they are: "fitnet", "at" or "ft"'
        )
    if seen.is_affine and not any(_weights(step) for step in steps):
        changed, before = before_activation(graph, source)
        return (changed, before) if before != source else (graph, symbol)
    return graph, symbol


def _from_a_single_tensor(graph, symbol):
    """The nearest tensor of which alone `symbol` is made, and the steps between."""
    needed, steps = {symbol}, []
    for step in reversed(graph.steps):
        if needed.intersection(step.outputs):
            needed = needed.difference(step.outputs).union(step.inputs.values())
            steps.insert(0, step)
            if len(needed) == 1:
                break
    return *needed, steps


def _spec(graph, symbol):
    specs = {graph.input: graph.input_spec}
    for step in graph.steps:
        specs.update(zip(step.outputs, step.specs))
    return specs[symbol]


def _weights(step):
    return getattr(step.operation, "weights", ())


def _is_of_keras(operation):
    return type(operation).__module__.partition(".")[0] == "keras"


def _is_opaque(operation):
    activation = getattr(operation, "activation", None)
    has_activation = activation not in (None, keras.activations.linear)
    is_foreign = not _is_of_keras(operation)
    return is_foreign or has_activation or isinstance(operation, _OPAQUE)


def _moved(graph, step):
    """Does with the maps before activations what `step` does with those behind."""
    before = {}
    for tensor, symbol in step.inputs.items():
        graph, before[tensor] = before_activation(graph, symbol)
    if before == step.inputs:
        return graph, *step.outputs
    moved = dataclasses.replace(step, inputs=before, outputs=(_new_symbol(step),))
    return _replaced(graph, step, step, moved), *moved.outputs


def _without_activation(graph, step):
    layer = step.operation
    if layer.activation in (None, keras.activations.linear):
        return graph, *step.outputs
    # The layer itself but for the function: the same variables, with no config between,
    # since not every function has one.
    linear = object.__new__(type(layer))
    vars(linear).update(vars(layer), activation=None, activity_regularizer=None)
    fields = {f.name: getattr(step, f.name) for f in dataclasses.fields(step)}
    in_two = _InTwo(**fields, linear=linear, before=_new_symbol(step))
    return _replaced(graph, step, in_two), in_two.before


def _new_symbol(step):
    (symbol,) = step.outputs
    return -1 - symbol  # the graph's own are not negative


def _replaced(graph, step, *others):
    steps = [s for old in graph.steps for s in (others if old is step else (old,))]
    return dataclasses.replace(graph, steps=tuple(steps))


@dataclasses.dataclass(frozen=True)
class _InTwo(Step):
    """A layer with an activation function, run apart from it.

    Attributes:
        linear: The layer without the function, of the same variables.
        before: Symbol of what goes into the function.
    """

    linear: Any
    before: int

    def run(self, values, training=None):
        layer, (x,) = self.operation, (values[s] for s in self.inputs.values())
        values[self.before] = self.linear(x)
        if layer.activity_regularizer is None:
            (output,) = self.outputs
            values[output] = layer.activation(values[self.before])
        else:
            super().run(values, training)  # the layer itself adds its penalty
