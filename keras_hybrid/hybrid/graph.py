"""A Keras network as a flat list of steps that can be run in parts.

`keras.Model(tensor, tensor)` would give parts too, but it adds nodes to the layers of the
caller's model and stops at nested models. Here nothing is copied or changed: a step calls
the user's own layer, and nested models are flattened.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Collection, Sequence
from typing import Any

import keras
from keras import ops
from keras.src.backend.common import global_state
from keras.src.layers.layer import CallContext
from keras.src.models.functional import Functional, unpack_singleton

from keras_hybrid.hybrid import batch_norm
from keras_hybrid.hybrid.open_layer import in_order, open_layer
from keras_hybrid.training.types import Tensor


@dataclasses.dataclass(frozen=True)
class Step:
    """One call of a layer or op. Tensors are identified by numbers, their *symbols*.

    Attributes:
        name: Name of the layer; inside a nested model `"base/conv1"`.
        operation: The layer or op.
        arguments: Keras's record of the call, with `KerasTensor`s for tensors.
        inputs: `id` of each `KerasTensor` in `arguments` -> its symbol.
        outputs: Symbols of the outputs.
        specs: The outputs as `KerasTensor`s, for their static shapes.
        casts: `id` of each `KerasTensor` in `arguments` that is the input of a nested
            model -> the dtype to which that model casts it.
    """

    name: str
    operation: keras.Operation
    arguments: Any
    inputs: dict[int, int]
    outputs: tuple[int, ...]
    specs: tuple[keras.KerasTensor, ...]
    casts: dict[int, str] = dataclasses.field(default_factory=dict, kw_only=True)

    def run(self, values: dict[int, Tensor], training: bool | None = None) -> None:
        """Runs the step on `values` (symbol -> tensor), and adds its outputs to it."""
        args, kwargs = self._filled_in(values)
        if training is not None and isinstance(self.operation, keras.Layer):
            # As in `Functional.call`: overrides a `training` the graph was built with.
            kwargs["training"] = training
        if batch_norm.runs_fused(self.operation, args, kwargs):
            outputs = batch_norm.fused(self.operation, *args)
        else:
            outputs = self.operation(*args, **kwargs)
        values.update(zip(self.outputs, keras.tree.flatten(outputs)))

    def infer(self, values: dict[int, keras.KerasTensor]) -> None:
        """`run` for `KerasTensor`s: infers shapes, and leaves the layer unchanged."""
        args, kwargs = self._filled_in(values)
        outputs = self.operation.compute_output_spec(*args, **kwargs)
        values.update(zip(self.outputs, keras.tree.flatten(outputs)))

    def _filled_in(self, values):
        tensors = {tensor: values[symbol] for tensor, symbol in self.inputs.items()}
        for tensor, dtype in self.casts.items():
            tensors[tensor] = _cast(tensors[tensor], dtype)
        return self.arguments.fill_in(tensors)

    @property
    def weights(self) -> Sequence[keras.Variable]:
        """Weights of the layer; none for an op."""
        return getattr(self.operation, "weights", ())

    @property
    def weighted_layers(self) -> int:
        """Number of kernels of this step: weights of two dimensions or more.

        A convolution, a depthwise convolution and a dense layer have one, a separable
        convolution two, batch normalization none.
        """
        return count_kernels(self.operation)


def _cast(x, dtype):
    return x if keras.backend.standardize_dtype(x.dtype) == dtype else ops.cast(x, dtype)


def count_kernels(operation: keras.Operation) -> int:
    """Number of weights of two dimensions or more in a layer; 0 for an op."""
    return sum(len(w.shape) >= 2 for w in getattr(operation, "weights", ()))


@dataclasses.dataclass(frozen=True)
class Graph:
    """The steps of a network with one input, in topological order.

    Attributes:
        steps: The steps that some output depends on.
        input: Symbol of the input. `input_spec` is its `KerasTensor`.
        outputs: Symbols of the outputs, which the network packs as `structure`.
    """

    steps: tuple[Step, ...]
    input: int
    input_spec: keras.KerasTensor
    outputs: tuple[int, ...]
    structure: Any

    @property
    def specs(self) -> dict[int, keras.KerasTensor]:
        """Symbol -> each tensor as a `KerasTensor`, for its static shape."""
        specs = {self.input: self.input_spec}
        for step in self.steps:
            specs.update(zip(step.outputs, step.specs))
        return specs

    def run(
        self,
        values: dict[int, Tensor],
        start: int | None,
        stop: int | None,
        training: bool | None,
        wanted: Collection[int] | None = None,
    ) -> None:
        """Runs `steps[start:stop]`, which read from `values` and add to it.

        For a frozen network, `wanted` may list the symbols that are read afterwards;
        `values` may then lack others.
        """
        steps: Sequence[Any] = self.steps[start:stop]
        if wanted is not None:
            steps = batch_norm.folded(steps, wanted)
        with _one_call():
            for step in steps:
                step.run(values, training)

    def towards(self, target: int) -> tuple["Graph", int]:
        """Moves the steps that `target` depends on to the front.

        Returns:
            The reordered graph, and the number of these steps.
        """
        front = list(_needed(self.steps, [target]))
        in_front = set(map(id, front))
        rest = [step for step in self.steps if id(step) not in in_front]
        return dataclasses.replace(self, steps=(*front, *rest)), len(front)

    def pack(self, outputs: Sequence[Tensor]) -> Any:
        """Packs a flat list of outputs into the structure that the network returns."""
        return unpack_singleton(keras.tree.pack_sequence_as(self.structure, outputs))

    def weighted_layers(
        self, start: int | None, stop: int | None, source: int, target: int
    ) -> int:
        """Number of weighted layers on the longest route from `source` to `target`.

        The projection beside a residual branch is not on the longest route, so it does
        not count: ResNet-50 has 50 weighted layers (as the paper counts, Fig. 6).

        Args:
            start, stop: Range of steps to follow, as in a slice.
            source, target: Symbols of two tensors.
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
    """Makes a layer keep the losses of all its calls, as within a call of a model.

    A layer that is called on its own drops the losses of its previous call.
    """
    outer = global_state.get_global_attribute("current_call_ctx")
    if outer is None:
        context = CallContext(entry_layer=None)
        global_state.set_global_attribute("current_call_ctx", context)
    try:
        yield
    finally:
        global_state.set_global_attribute("current_call_ctx", outer)


def flatten(model: keras.Model, opens_layers: bool = True) -> Graph:
    """Returns the `Graph` of a Functional or Sequential model with one input.

    Args:
        model: The model.
        opens_layers: Whether to replace each layer that keeps its blocks in a list by
            the calls of these, where `open_layer` can.
    """
    model = functional(model)
    symbols = itertools.count()
    source = next(symbols)
    steps, outputs = _flatten(model, [source], symbols, opens_layers, prefix="")
    if any(None in step.inputs.values() for step in steps) or None in outputs:
        return flatten(model, opens_layers=False)
    return Graph(
        steps=tuple(_needed(steps, outputs)),
        input=source,
        input_spec=model.inputs[0],
        outputs=tuple(outputs),
        structure=model._outputs_struct,
    )


def last_operations(model: keras.Model) -> list[keras.Operation]:
    """Returns what makes the outputs of a model, from the last layers with weights on.

    Of a model without a graph it is the `.head`, if it has one.
    """
    if functional(model) is None:
        head = getattr(model, "head", None)
        return [head] if isinstance(head, keras.Layer) else []
    graph = flatten(model, opens_layers=False)
    wanted, found = set(graph.outputs), []
    for step in reversed(graph.steps):
        if wanted.isdisjoint(step.outputs):
            continue
        found.append(step.operation)
        if not step.weights:
            wanted.update(step.inputs.values())
    return found


def functional(model: keras.Operation) -> Functional | None:
    """Returns the Functional model that computes `model`, or None if there is none.

    There is none for a subclass with its own `call`, which may do more than its graph.
    """
    if isinstance(model, keras.Sequential):
        return model._functional if type(model).call is keras.Sequential.call else None
    is_functional = isinstance(model, Functional)
    return model if is_functional and type(model).call is Functional.call else None


def _flatten(model, sources, symbols, opens_layers, prefix):
    dtypes = {id(tensor): tensor.dtype for tensor in model.inputs if prefix}
    known = dict(zip(map(id, model.inputs), sources, strict=True))
    steps = []
    for node in in_order(model):
        tensors = node.arguments.keras_tensors
        inputs = {id(tensor): known[id(tensor)] for tensor in tensors}
        name = prefix + node.operation.name
        inside = _inside(node, opens_layers)
        if inside is not None:
            part, made = inside
            into = [known[id(tensor)] for tensor in tensors]
            inner, ends = _flatten(part, into, symbols, opens_layers, name + "/")
            steps += inner
            outputs = tuple(None if end is None else ends[end] for end in made)
        else:
            outputs = tuple(next(symbols) for _ in node.outputs)
            casts = {tensor: dtypes[tensor] for tensor in inputs if tensor in dtypes}
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


def _inside(node, opens_layers):
    """The model that makes the calls inside of a call, or None.

    Comes with, for each output of the call, its index among those of the model.
    """
    given, nested = node.arguments.keras_tensors, functional(node.operation)
    if nested is None:
        return open_layer(node) if opens_layers and len(given) == 1 else None
    structures = *node.arguments.args[:1], nested._inputs_struct
    are_lists = all(isinstance(each, list | tuple) for each in structures)
    fits = len(given) == len(nested.inputs) and (len(given) == 1 or are_lists)
    return (nested, range(len(node.outputs))) if fits else None


def _needed(steps, outputs):
    needed = set(outputs)
    kept = []
    for step in reversed(steps):
        if needed.intersection(step.outputs):
            needed.update(step.inputs.values())
            kept.append(step)
    return kept[::-1]
