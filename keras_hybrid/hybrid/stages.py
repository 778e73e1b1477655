"""Where a network can be cut: the last single tensor at each spatial scale.

Shape shorthand: images are (B, H, W, C). A *cut* is a feature map of rank 4 through which
every route from the input to the outputs passes. A *stage* ends at the last cut before a
downsampling layer (paper, "Hybrid Forward").
"""

import dataclasses
from collections.abc import Sequence

import keras

from keras_hybrid.hybrid import graph as graph_lib
from keras_hybrid.hybrid.feature_size import Scale, measure
from keras_hybrid.training.types import Tensor

# A larger stride down to one pixel is global pooling, e.g. an AveragePooling2D(7).
_LARGEST_STRIDE_TO_ONE_PIXEL = 4


@dataclasses.dataclass(frozen=True)
class Stage:
    """The end of one stage of a network.

    Attributes:
        name: `"stage1"` and so on, counted from the input.
        layer_name: Name of the layer whose output ends the stage; `"base/conv1"` for a
            layer of a nested model.
        stride: Pixels of the image per pixel of this output.
        channels: Number of channels of this output.
    """

    name: str
    layer_name: str
    stride: int
    channels: int


def find_stages(model: keras.Model) -> list[Stage]:
    """Finds where `model` can be cut: one place per spatial scale.

    Works for Functional and Sequential models with one image input, fully specified or
    `(None, None, 3)`, and looks into nested models. Padding layers, which only enlarge a
    map, and global pooling do not count as scales. For a model with a `.backbone` and a
    `.head`, the stages are those of the backbone.

    Example:

    >>> stages = keras_hybrid.find_stages(keras.applications.ResNet50(weights=None))
    >>> [(s.layer_name, s.stride, s.channels) for s in stages[:2]]
    [('conv1_relu', 2, 64), ('conv2_block3_out', 4, 256)]

    Args:
        model: A `keras.Model` that takes images (B, H, W, C).

    Returns:
        A list of `Stage`s, shallowest first; empty if the network never narrows to a
        single tensor.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: `model` is not built, is not Functional or Sequential, or does not
            take one batch of images.
    """
    return Network(model, "model").stages


@dataclasses.dataclass(frozen=True)
class Cut:
    """A place in a network where all data passes through one map of rank 4.

    Attributes:
        position: Number of the steps that lead to it, `graph.steps[:position]`.
        symbol: Symbol of the map.
        spec: The map as a `KerasTensor`.
        layer_name: Name of the layer that computes it.
        stride: Pixels of the image per pixel of this map.
        height, width: `Scale`s from the size of the image to that of the map.
        is_padding: Whether the layer only pads the map, as before a strided convolution.
        is_weighted: Whether one of the steps that lead to it has weights.
    """

    position: int
    symbol: int
    spec: keras.KerasTensor
    layer_name: str = "input"
    stride: int = 1
    height: Scale = Scale()
    width: Scale = Scale()
    is_padding: bool = False
    is_weighted: bool = False

    @property
    def channels(self) -> int:
        return self.spec.shape[-1]

    def size(self, image_size: Sequence[int | Tensor]) -> tuple[int | Tensor, ...]:
        """Returns (height, width) of this map for images of (height, width)."""
        return self.height(image_size[0]), self.width(image_size[1])


class Network:
    """The part of a model that can be cut, and its cuts.

    Of several outputs, only those count whose route from the image passes through the
    coarsest map: a pyramid's finer maps and an auxiliary head branch off before it.

    Args:
        model: The model.
        argument: Name of the model in errors.

    Attributes:
        graph: The `Graph` of the Functional model, or of the `.backbone`.
        start: The input, as a `Cut`.
        cuts: Every cut before global pooling, a change of rank, or upsampling.
        stage_cuts: The cuts that end a stage, one per stride.
        stages: The same cuts as `Stage`s.
    """

    def __init__(self, model: keras.Model, argument: str) -> None:
        self.model = model
        graph = graph_lib.flatten(_trunk(model, argument))
        self.start = Cut(0, graph.input, graph.input_spec)
        chains = [_chain(graph, self.start, output) for output in graph.outputs]
        self.graph, self.cuts = max(chains, key=lambda chain: _depth(chain[1]))
        coarsest = _coarsest(self.cuts)
        shared = set.intersection(
            *(
                {c.symbol for c in cuts}
                for _, cuts in chains
                if _coarsest(cuts) == coarsest
            )
        )
        ends = {
            c.stride: c
            for c in self.cuts
            if c.symbol in shared and c.is_weighted and not c.is_padding
        }
        self.stage_cuts = list(ends.values())

    @property
    def stages(self) -> list[Stage]:
        return [
            Stage(f"stage{i}", cut.layer_name, cut.stride, cut.channels)
            for i, cut in enumerate(self.stage_cuts, start=1)
        ]

    def weighted_layers(self, start: Cut, end: Cut) -> int:
        """Number of weighted layers on the longest route from `start` to `end`."""
        return self.graph.weighted_layers(
            start.position, end.position, start.symbol, end.symbol
        )


def has_backbone(model: keras.Model) -> bool:
    """Whether the `.backbone` of `model` is cut, and not the whole model.

    A Functional model is always cut as a whole, whatever attributes it has.
    """
    return hasattr(model, "backbone") and graph_lib.functional(model) is None


def _trunk(model, argument):
    if not isinstance(model, keras.Model):
        raise TypeError(f"`{argument}` must be a keras.Model. Received: {model!r}")
    received = f"Received: {argument}={model.name!r} ({type(model).__name__})"
    part = model.backbone if has_backbone(model) else model
    trunk = graph_lib.functional(part)
    if trunk is None and isinstance(part, keras.Sequential):
        raise ValueError(
            f"`{argument}` must be built: start it with `keras.Input(shape)`. {received}"
        )
    if trunk is None:
        raise ValueError(
            f"`{argument}` must be a Functional or Sequential model, or have a "
            f"`.backbone` that is one and a `.head`, to be cut into stages. {received}"
        )
    shapes = [tuple(tensor.shape) for tensor in trunk.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] is None:
        raise ValueError(
            f"`{argument}` must take one batch of images (B, H, W, C). {received} with "
            f"input shapes {shapes}"
        )
    return trunk


def _chain(graph, start, target):
    """The graph with the steps for output `target` first, and its cuts up to `target`."""
    graph, stop = graph.towards(target)
    return graph, list(_cuts(graph, start, target, stop))


def _coarsest(cuts):
    return cuts[-1].stride if cuts else 0


def _depth(cuts):
    return _coarsest(cuts), len(cuts)


def _cuts(graph, start, target, stop):
    before = start
    for position, symbol, step in _single_tensors(graph, target, stop):
        spec = step.specs[step.outputs.index(symbol)]
        if len(spec.shape) != 4 or spec.shape[-1] is None:
            return
        steps = graph.steps[before.position : position]
        height, width = measure(steps, before.symbol, symbol, before.spec, spec)
        if _ends_the_chain(before, spec, height, width):
            return
        weighted = any(s.weighted_layers for s in steps)
        before = Cut(
            position,
            symbol,
            spec,
            layer_name=step.name,
            stride=before.stride * height.down,
            height=before.height.then(height),
            width=before.width.then(width),
            is_padding=height.down == 1 and height.offset > 0 and not weighted,
            is_weighted=before.is_weighted or weighted,
        )
        yield before


def _single_tensors(graph, target, stop):
    """Yields (position, symbol, step) where `target` depends on a single tensor."""
    last_use = {}
    for i, step in enumerate(graph.steps[:stop]):
        last_use.update(dict.fromkeys(step.inputs.values(), i))
    last_use[target] = stop
    needed = {graph.input}
    for i, step in enumerate(graph.steps[:stop]):
        needed = {s for s in needed.union(step.outputs) if last_use.get(s, -1) > i}
        if len(needed) == 1 and needed.issubset(step.outputs):
            yield i + 1, *needed, step


def _ends_the_chain(before, spec, height, width):
    if height is None or width is None or height.down != width.down:
        return True
    pooled_away = height == Scale(up=0, offset=1)
    pooled_away |= spec.shape[1] == 1 and height.down > _LARGEST_STRIDE_TO_ONE_PIXEL
    upsampled = before.stride > 1 and height.up != 1
    return pooled_away or upsampled
