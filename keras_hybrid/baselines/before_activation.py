"""The feature maps of a network before their activation functions."""

import dataclasses

import keras
from keras import layers

from keras_hybrid.baselines.elementwise import effect
from keras_hybrid.hybrid.graph import Graph, Step
from keras_hybrid.training.types import Tensor

# Layers that can run without the activation function inside them. Exactly these classes,
# since a subclass may use its `activation` in another way.
_WITH_ACTIVATION = (
    layers.Conv2D,
    layers.Conv2DTranspose,
    layers.DepthwiseConv2D,
    layers.SeparableConv2D,
    layers.Dense,
    layers.EinsumDense,
)
# Layers and ops of Keras that move values without changing them. Max pooling is one of
# them, since it commutes with increasing functions such as a ReLU.
_MOVES = "Concatenate", "Reshape", "Permute", "Transpose", "MaxPooling2D", "MaxPool"
# Layers of Keras that may contain any function.
_OPAQUE = (
    keras.Model,
    layers.Lambda,
    layers.Wrapper,
    layers.TFSMLayer,
    layers.JaxLayer,
    layers.TorchModuleWrapper,
)


def before_activation(graph: Graph, symbol: int) -> tuple[Graph, int]:
    """Finds the input of the activation function that makes a feature map.

    An activation function acts elementwise and is not affine. It may be a layer, an op or
    several ops, such as `x * sigmoid(x)`, and is recognised by its values. It may be
    followed by what does nothing at inference, such as `Dropout`, by concatenation and by
    max pooling. No layer of the network is changed.

    Args:
        graph: Graph of the network.
        symbol: Symbol of the feature map.

    Returns:
        A `Graph` that computes the same, and the symbol of the input in it; `symbol`
        itself if there is no activation function.

    Raises:
        ValueError: The feature map comes from a layer that may contain an activation
            function and cannot be split.
    """
    producer = next((s for s in graph.steps if symbol in s.outputs), None)
    if producer is None:
        return graph, symbol
    if type(producer.operation) in _WITH_ACTIVATION:
        return _without_activation(graph, producer)
    if _is_of_keras(producer.operation) and type(producer.operation).__name__ in _MOVES:
        return _moved(graph, producer)
    # A PReLU's weights may fit one map size only, not the 4 x 4 of `effect`.
    if isinstance(producer.operation, layers.PReLU):
        return graph, *producer.inputs.values()
    source, steps = _from_a_single_tensor(graph, symbol)
    seen = effect(steps, source, graph.specs[source], symbol)
    if seen.is_activation:
        return graph, source
    if not seen.is_affine and _is_opaque(producer.operation):
        raise ValueError(
            "A feature map and its activation function must come from separate layers. "
            f"Received: {producer.name!r} ({type(producer.operation).__name__}), which "
            "ends a stage and may have an activation function inside. Make that a layer "
            "of its own, name other layers in `switch_points`, or use a method that does "
            'not need the map before its activation function: "fitnet", "at" or "ft"'
        )
    if seen.is_affine and not any(step.weights for step in steps):
        changed, before = before_activation(graph, source)
        return (changed, before) if before != source else (graph, symbol)
    return graph, symbol


def _from_a_single_tensor(graph, symbol):
    """The nearest tensor from which alone `symbol` is computed, and the steps between."""
    needed, steps = {symbol}, []
    for step in reversed(graph.steps):
        if needed.intersection(step.outputs):
            needed = needed.difference(step.outputs).union(step.inputs.values())
            steps.insert(0, step)
            if len(needed) == 1:
                break
    return *needed, steps


def _is_of_keras(operation):
    return type(operation).__module__.partition(".")[0] == "keras"


def _is_opaque(operation):
    activation = getattr(operation, "activation", None)
    has_activation = activation not in (None, keras.activations.linear)
    is_foreign = not _is_of_keras(operation)
    return is_foreign or has_activation or isinstance(operation, _OPAQUE)


def _moved(graph, step):
    """Adds a copy of `step` that runs on its inputs before their activation functions."""
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
    fields = {f.name: getattr(step, f.name) for f in dataclasses.fields(step)}
    split = _SplitStep(**fields, before=_new_symbol(step))
    return _replaced(graph, step, split), split.before


def _new_symbol(step):
    (symbol,) = step.outputs
    return -1 - symbol  # those of the graph itself are not negative


def _replaced(graph, step, *others):
    steps = [s for old in graph.steps for s in (others if old is step else (old,))]
    return dataclasses.replace(graph, steps=tuple(steps))


@dataclasses.dataclass(frozen=True)
class _SplitStep(Step):
    """A layer whose activation function runs separately.

    Attributes:
        before: Symbol of the activation function's input.
    """

    before: int

    def run(self, values: dict[int, Tensor], training: bool | None = None) -> None:
        layer, (x,) = self.operation, (values[s] for s in self.inputs.values())
        # The same layer with the same variables, without its activation function. It is
        # not made from a config, since not every activation function has one. It is made
        # anew in each run: `enable_lora` or another precision changes what a layer has.
        linear = object.__new__(type(layer))
        vars(linear).update(vars(layer), activation=None, activity_regularizer=None)
        values[self.before] = linear(x)
        if layer.activity_regularizer is None:
            (output,) = self.outputs
            values[output] = layer.activation(values[self.before])
        else:
            super().run(values, training)  # the layer itself adds its penalty
