"""The calls inside of a layer that keeps its blocks in a list, such as an encoder."""

import inspect
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.models.functional import Functional

# Number of tokens, or height and width, where the layer takes any.
_PROBE_SIZE = 16


def open_layer(node: Any) -> tuple[Functional, Sequence[int | None]] | None:
    """Finds the calls that a layer makes when it is called.

    Args:
        node: Keras's record of a call of the layer on one tensor.

    Returns:
        A model of these calls and, for each output of the layer, its index among those of
        the model, None for a constant. None instead of both for a layer that keeps no
        list of layers of one class, has weights or losses besides those of its layers,
        or makes other calls in training than in inference; and where these calls do not
        give what the layer gives, e.g. since its `call` does not take symbolic tensors.
    """
    layer = node.operation
    (tensor,) = node.arguments.keras_tensors
    if not keeps_blocks(layer) or _has_more_than_layers(layer):
        return None
    inputs = keras.Input(batch_shape=tensor.shape, dtype=layer.compute_dtype)
    args, kwargs = node.arguments.fill_in({id(tensor): inputs})
    try:
        model, made = _traced(layer, inputs, args, kwargs, training=False)
        in_training, _ = _traced(layer, inputs, args, kwargs, training=True)
        is_same = _results(model) == _results(in_training) and _agree(node, model, made)
    except Exception:  # whatever a layer raises
        return None
    return (model, made) if is_same else None


def keeps_blocks(layer: keras.Operation) -> bool:
    """Whether a layer keeps several layers of one class in a list."""
    return any(
        isinstance(value, list | tuple)
        and len(value) > 1
        and isinstance(value[0], keras.Layer)
        and all(type(block) is type(value[0]) for block in value)
        for name, value in vars(layer).items()
        if name != "_layers"  # where Keras keeps all layers inside of a layer
    )


def _has_more_than_layers(layer):
    inner = {
        id(w) for each in layer._flatten_layers(include_self=False) for w in each.weights
    }
    own = [w for w in layer.weights if id(w) not in inner]
    return bool(own) or getattr(layer, "activity_regularizer", None) is not None


def _traced(layer, inputs, args, kwargs, training):
    """The calls that a layer makes, as `open_layer` returns them.

    The layers that it calls are as before.
    """
    if "training" in inspect.signature(layer.call).parameters:
        kwargs = {**kwargs, "training": training}
    before = [
        (nodes, len(nodes))
        for each in layer._flatten_layers()
        for nodes in (each._inbound_nodes, each._outbound_nodes)
    ]
    try:
        made = keras.tree.flatten(layer.call(*args, **kwargs))
        is_made = [isinstance(x, keras.KerasTensor) for x in made]
        model = Functional(inputs, list(itertools.compress(made, is_made)))
    finally:
        for nodes, count in before:
            del nodes[count:]
    indices = itertools.count()
    return model, [next(indices) if found else None for found in is_made]


def _agree(node, model, made):
    """Whether the calls of a layer give what the layer gives, for one random input."""
    (tensor,) = node.arguments.keras_tensors
    shape = [n or _PROBE_SIZE for n in tensor.shape[1:]]
    x = np.random.default_rng(0).normal(size=(1, *shape))
    x = ops.cast(x, model.inputs[0].dtype)
    args, kwargs = node.arguments.fill_in({id(tensor): x})
    kwargs.pop("training", None)
    expected = keras.tree.flatten(node.operation(*args, **kwargs, training=False))
    found = keras.tree.flatten(model(x, training=False))
    if len(expected) != len(made):
        return False
    return all(
        np.array_equal(ops.convert_to_numpy(found[i]), ops.convert_to_numpy(each))
        for i, each in zip(made, expected, strict=True)
        if i is not None
    )


def _results(model):
    """Kinds and shapes of what the calls of a model make."""
    return [
        (type(node.operation), [tuple(x.shape) for x in node.outputs])
        for node in in_order(model)
    ]


def in_order(model: Functional) -> Iterator[Any]:
    """Yields the calls of a Functional model in an order in which they can run."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not node.is_input:
                yield node
