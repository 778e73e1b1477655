"""A Keras network as a flat list of steps that can be run in pieces.

`keras.Model(tensor, tensor)` would give pieces too, but it adds nodes to the layers of
the caller's model and stops at nested models. Here nothing is copied or changed: a step
calls the user's own layer, and nested models are looked into.
"""

import contextlib
import dataclasses
import itertools
from typing import Any

import keras
from keras import ops
from keras.src.backend.common import global_state
from keras.src.layers.layer import CallContext
from keras.src.models.functional import Functional, unpack_singleton

from keras_hybrid.hybrid import batch_norm


@dataclasses.dataclass(frozen=True)
class Step:
    """One call of one layer or op. Tensors go by number, their *symbols*.

    Attributes:
        name: Name of the layer; inside nested models `"base/conv1"`.
        operation: The layer or op.
        arguments: Keras's record of the call, with `KerasTensor`s for tensors.
        inputs: `id` of each `KerasTensor` in `arguments` -> its symbol.
        outputs: Symbols of the results.
        specs: The results as `KerasTensor`s, for their static shapes.
        casts: `id` of each of them that is the input of a nested model -> the dtype to
            which that model casts it.
    """

    name: str
    operation: Any
    arguments: Any
    inputs: dict[int, int]
    outputs: tuple[int, ...]
    specs: tuple[keras.KerasTensor, ...]
    casts: dict[int, str] = dataclasses.field(default_factory=dict, kw_only=True)

    def run(self, values, training=None):
        """Adds the outputs to `values`, a dict from symbol to tensor."""
        args, kwargs = self._filled_in(values)
        if training is not None and isinstance(self.operation, keras.Layer):
            # As in `Functional.call`: wins over a `training` the graph was built with.
            kwargs["training"] = training
        if batch_norm.runs_fused(self.operation, args, kwargs):
            outputs = batch_norm.fused(self.operation, *args)
        else:
            outputs = self.operation(*args, **kwargs)
        values.update(zip(self.outputs, keras.tree.flatten(outputs)))

    def infer(self, values):
        """`run` for `KerasTensor`s: shapes only, and no trace left in the layer."""
        args, kwargs = self._filled_in(values)
        outputs = self.operation.compute_output_spec(*args, **kwargs)
        values.update(zip(self.outputs, keras.tree.flatten(outputs)))

    def _filled_in(self, values):
        tensors = {tensor: values[symbol] for tensor, symbol in self.inputs.items()}
        for tensor, dtype in self.casts.items():
            tensors[tensor] = _cast(tensors[tensor], dtype)
        return self.arguments.fill_in(tensors)

    @property
    def weighted_layers(self):
        """Kernels of this step: weights of two dimensions or more.

        A convolution, a depthwise convolution and a dense layer have one, a separable
        convolution two, batch normalization none.
        """
        return count_kernels(self.operation)


def _cast(x, dtype):
    return x if keras.backend.standardize_dtype(x.dtype) == dtype else ops.cast(x, dtype)


def count_kernels(operation):
    """How many weights of two dimensions or more a layer (or op: none) has."""
    return sum(len(w.shape) >= 2 for w in getattr(operation, "weights", ()))


@dataclasses.dataclass(frozen=True)
class Graph:
    """The steps of a network of one input, in an order in which they can run.

    Attributes:
        steps: The steps; each one is needed for some output.
        input: Symbol of the input. `input_spec` is its `KerasTensor`.
        outputs: Symbols of the outputs, packed as `structure` by the network.
    """

    steps: tuple[Step, ...]
    input: int
    input_spec: keras.KerasTensor
    outputs: tuple[int, ...]
    structure: Any

    def run(self, values, start, stop, training, wanted=None):
        """Runs `steps[start:stop]`, reading from and adding to `values`.

        Given the symbols that are `wanted` of a network that is frozen, others may be
        missing.
        """
        steps = self.steps[start:stop]
        if wanted is not None:
            steps = batch_norm.folded(steps, wanted)
        with _one_call():
            for step in steps:
                step.run(values, training)

    def towards(self, target):
        """The same graph with the steps that `target` needs in front.

        Returns:
            The graph, and how many steps are in front.
        """
        front = list(_needed(self.steps, [target]))
        in_front = set(map(id, front))
        rest = [step for step in self.steps if id(step) not in in_front]
        return dataclasses.replace(self, steps=(*front, *rest)), len(front)

    def pack(self, outputs):
        """Gives a flat list of outputs the structure the network returns."""
        return unpack_singleton(keras.tree.pack_sequence_as(self.structure, outputs))

    def weighted_layers(self, start, stop, source, target):
        """Most weighted layers on any way from symbol `source` to symbol `target`.

        A projection beside a residual branch is not on the longest way and so does not
        count: ResNet-50 has 50 (the paper's counts, Fig. 6).
        """
        depth = {source: 0}
        for step in self.steps[start:stop]:
            above = [depth[s] for s in step.inputs.values() if s in depth]
            if above:
                below = max(above) + step.weighted_layers
                depth.update(dict.fromkeys(step.outputs, below))
        return depth.get(target, 0)


@contextlib.contextmanager
def _one_call():
    """Within it a layer keeps the losses of all its calls, as within a call of a model.

    A layer that is called by itself drops those of its call before.
    """
    outer = global_state.get_global_attribute("current_call_ctx")
    if outer is None:
        context = CallContext(entry_layer=None)
        global_state.set_global_attribute("current_call_ctx", context)
    try:
        yield
    finally:
        global_state.set_global_attribute("current_call_ctx", outer)


def flatten(model):
    """The `Graph` of a Functional model (or Sequential) of one input."""
    model = functional(model)
    symbols = itertools.count()
    source = next(symbols)
    steps, outputs = _flatten(model, source, symbols, prefix="")
    return Graph(
        steps=tuple(_needed(steps, outputs)),
        input=source,
        input_spec=model.inputs[0],
        outputs=tuple(outputs),
        structure=model._outputs_struct,
    )


def functional(model):
    """The Functional model behind `model`, or None if it has none.

    Subclasses that have a `call` of their own do more than their graph: they have none.
    """
    if isinstance(model, keras.Sequential):
        return model._functional if type(model).call is keras.Sequential.call else None
    is_functional = isinstance(model, Functional)
    return model if is_functional and type(model).call is Functional.call else None


def _flatten(model, source, symbols, prefix):
    image = model.inputs[0]
    known = {id(image): source}
    steps = []
    for node in _in_order(model):
        tensors = node.arguments.keras_tensors
        inputs = {id(tensor): known[id(tensor)] for tensor in tensors}
        name = prefix + node.operation.name
        nested = functional(node.operation)
        if nested is not None and len(nested.inputs) == len(tensors) == 1:
            inner, outputs = _flatten(nested, *inputs.values(), symbols, name + "/")
            steps += inner
        else:
            outputs = tuple(next(symbols) for _ in node.outputs)
            casts = {id(image): image.dtype} if prefix and id(image) in inputs else {}
            steps.append(
                Step(
                    name,
                    node.operation,
                    node.arguments,
                    inputs,
                    outputs,
                    node.outputs,
                    casts=casts,
                )
            )
        known.update(zip(map(id, node.outputs), outputs))
    return steps, [known[id(tensor)] for tensor in model.outputs]


def _in_order(model):
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not node.is_input:
                yield node


def _needed(steps, outputs):
    needed = set(outputs)
    kept = []
    for step in reversed(steps):
        if needed.intersection(step.outputs):
            needed.update(step.inputs.values())
            kept.append(step)
    return kept[::-1]
