"""The single tensors through which all data of a network passes, and their sizes."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import keras
from keras import ops
from keras.src.layers.merging.base_merge import Merge

from keras_hybrid.hybrid import feature_size, tokens
from keras_hybrid.hybrid.feature_size import Scale
from keras_hybrid.hybrid.graph import Graph
from keras_hybrid.training.types import Tensor

# A larger stride down to one pixel is global pooling, e.g. an AveragePooling2D(7).
_LARGEST_STRIDE_TO_ONE_PIXEL = 4
# Patches of published networks have 2 to 32 pixels, and merge 2 or 4 of these at a time.
_PATCHES = range(1, 65)
_MERGED = range(1, 5)
_ATTENTION = (
    keras.layers.Attention
    | keras.layers.GroupQueryAttention
    | keras.layers.MultiHeadAttention
)
# Height and width of the images if a network takes any size.
_PROBE_SIZE = 256


@dataclasses.dataclass(frozen=True)
class Cut:
    """A place in a network where all data passes through one map, or its tokens.

    Attributes:
        position: Number of the steps that lead to it, `graph.steps[:position]`.
        symbol: Symbol of the map.
        spec: The map (B, H, W, C) or the tokens (B, P + H * W, C) as a `KerasTensor`.
        layer_name: Name of the layer that computes it.
        stride: Pixels of the image per pixel of this map.
        height, width: `Scale`s from the size of the image to that of the map.
        prefix: Number P of prefix tokens; None for a map.
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
    prefix: int | None = None
    is_padding: bool = False
    is_weighted: bool = False

    @property
    def channels(self) -> int:
        return self.spec.shape[-1]

    def size(self, image_size: Sequence[int | Tensor]) -> tuple[int | Tensor, ...]:
        """Returns (height, width) of this map for images of (height, width)."""
        return self.height(image_size[0]), self.width(image_size[1])


def chain(graph: Graph, start: Cut, target: int, stop: int) -> Iterator[Cut]:
    """Yields the cuts on the way to a tensor, shallowest first.

    Single tensors that hold no map of one image each are passed over, such as those of a
    reshape in several steps. The chain ends before global pooling and before upsampling.

    Args:
        graph: The network, with the steps that lead to `target` in front.
        start: The input, as a `Cut`.
        target: Symbol of the tensor.
        stop: Number of the steps that lead to it.
    """
    before = start
    for position, symbol, step in _single_tensors(graph, target, stop):
        spec = step.specs[step.outputs.index(symbol)]
        steps = graph.steps[before.position : position]
        if spec.shape[-1:] == (None,) or _is_pooled(graph, before, steps, symbol, spec):
            return
        found = _scales(graph, before, steps, symbol, spec)
        if found is None:
            continue
        if _ends_the_chain(before, spec, *found[:2]):
            return
        before = _cut(before, position, symbol, spec, step, steps, *found)
        yield before


def inner_cut(graph: Graph, before: Cut, symbol: int) -> Cut | None:
    """Returns a map that is computed from a cut, though others bypass it, as a `Cut`.

    None for a tensor that is neither a map nor tokens of one image each.
    """
    position, step = next(
        (i, step) for i, step in enumerate(graph.steps, start=1) if symbol in step.outputs
    )
    steps = graph.steps[before.position : position]
    spec = step.specs[step.outputs.index(symbol)]
    found = _scales(graph, before, steps, symbol, spec)
    if found is None or None in found[:2]:
        return None
    return _cut(before, position, symbol, spec, step, steps, *found)


def runs_at(graph: Graph, start: Cut, cut: Cut, image_size: Sequence[int]) -> bool:
    """Whether the layers up to a cut run on images of a size.

    The map that they make must have the size that the cut predicts.
    """
    image = ops.zeros((1, *image_size, start.channels), start.spec.dtype)
    values = {start.symbol: image}
    try:
        graph.run(values, 0, cut.position, training=False)
    except Exception:  # whatever a layer raises
        return False
    return tuple(values[cut.symbol].shape[1:3]) == cut.size(image_size)


def _cut(before, position, symbol, spec, step, steps, height, width, prefix):
    weighted = any(s.weighted_layers for s in steps)
    return Cut(
        position,
        symbol,
        spec,
        layer_name=step.name,
        stride=before.stride * height.down,
        height=before.height.then(height),
        width=before.width.then(width),
        prefix=prefix,
        is_padding=height.down == 1 and height.offset > 0 and not weighted,
        is_weighted=before.is_weighted or weighted,
    )


def _scales(graph, before, steps, symbol, spec):
    """Measures a tensor that some steps compute from a cut.

    Returns its `Scale`s (height, width) to the cut, None where they cannot be determined,
    and its number of prefix tokens, None for a map; or None for a tensor that is neither
    a map nor tokens of one image each.
    """
    if len(spec.shape) == 4 and before.prefix is None:
        found = feature_size.measure(steps, before.symbol, symbol, before.spec, spec)
        if found is None:
            return None
        sizes = list(zip(before.spec.shape[1:3], spec.shape[1:3], strict=True))
        # A layer such as `Resizing` makes maps of one size only.
        is_fixed = before.is_weighted and any(each and not each.up for each in found)
        if is_fixed and all(old and new and 1 < new <= old for old, new in sizes):
            found = [feature_size.fit_one(*pair) for pair in sizes]
        return (*found, None)
    batch, *shape = _shape(graph, before, steps, symbol, spec)
    if batch != feature_size.BATCH or len(shape) not in (2, 3) or None in shape:
        return None
    size = before.size(image_size(graph))
    if len(shape) == 3:
        return *map(feature_size.fit_one, size, shape[:2]), None
    fit = tokens.fit(shape[0], size)
    if fit is None and (not before.is_weighted or _can_merge(steps)):
        merges = before.is_weighted
        fit = tokens.fit(
            shape[0],
            size,
            strides=_MERGED if merges else _PATCHES,
            prefixes=(before.prefix or 0,) if merges else tokens.PREFIXES,
        )
    if fit is None:
        return None
    stride, prefix, rounds_up = fit
    scale = Scale(down=stride, offset=stride - 1 if rounds_up else 0)
    return scale, scale, prefix


def _can_merge(steps):
    """Whether neighbouring tokens may be merged: by one layer, or by way of rank 5 or 6.

    Other reshapes make sequences of rows or columns, which are no maps.
    """
    return len(steps) == 1 or any(len(s.shape) > 4 for step in steps for s in step.specs)


def _is_pooled(graph, before, steps, symbol, spec):
    """Whether a tensor is one vector an image: pooled, or flattened for a dense layer."""
    if len(spec.shape) > 2:
        return False
    return _shape(graph, before, steps, symbol, spec)[0] == feature_size.BATCH


def _shape(graph, before, steps, symbol, spec):
    """Shape of a tensor for a batch of a known size, if the layers can tell it."""
    size = before.size(image_size(graph))
    if before.prefix is not None:
        size = (before.prefix + size[0] * size[1],)
    source = (feature_size.BATCH, *size, before.channels)
    try:
        return feature_size.infer_shape(steps, before.symbol, symbol, source, before.spec)
    except Exception:  # whatever a layer raises
        return feature_size.BATCH, *spec.shape[1:]


def image_size(graph: Graph) -> tuple[int, ...]:
    """Returns (height, width) of the images, or those of a probe where it takes any."""
    return tuple(n or _PROBE_SIZE for n in graph.input_spec.shape[1:3])


@dataclasses.dataclass(frozen=True)
class Enlargement:
    """A map that a network resizes to at least 1.5 times its size.

    Attributes:
        symbol: Symbol of the map.
        step: Name of the layer that resizes it, the step at `position`.
        before, after: (height, width) of the map and of the resized one.
    """

    symbol: int
    position: int
    step: str
    before: tuple[int, int]
    after: tuple[int, int]


def enlarged(graph: Graph) -> list[Enlargement]:
    """Finds the maps that a network resizes to at least 1.5 times their size.

    A layer may resize one of several maps that it takes, and may do so in several steps,
    through more than four dimensions. The smallest maps come first, and of equal ones the
    last.
    """
    shapes, found = _shapes(graph), {}
    origins: dict[int, int] = {}  # of tensors of more dimensions, the map
    for position, step in enumerate(graph.steps):
        sources = {origins.get(source, source) for source in step.inputs.values()}
        if len(sources) > 1 and not _may_resize(step.operation):
            continue
        for target in step.outputs:
            if len(sources) == 1 and len(shapes[target]) > 4:
                (origins[target],) = sources
            for source in sources:
                before, after = shapes[source], shapes[target]
                if _enlarges(step, source, target, before, after):
                    sizes = before[1:3], after[1:3]
                    found[source] = Enlargement(source, position, step.name, *sizes)
    latest_first = sorted(found.values(), key=lambda each: -each.position)
    return sorted(latest_first, key=lambda each: each.before)


def _may_resize(operation):
    """Whether an operation on several maps may resize one of them.

    Not those that multiply a map with a vector, or attend to fewer positions.
    """
    is_layer = isinstance(operation, keras.Layer)
    return is_layer and not isinstance(operation, Merge | _ATTENTION)


def _enlarges(step, source, target, before, after):
    if not len(before) == len(after) == 4 or None in (*before[1:], *after[1:]):
        return False
    if any(after[axis] < 1.5 * before[axis] for axis in (1, 2)):
        return False
    if source not in step.inputs.values():  # not the windows of a map, put together
        return math.prod(before[1:]) == math.prod(after[1:])
    if set(step.inputs.values()) != {source}:
        return True
    spec = keras.KerasTensor(before, step.specs[0].dtype)
    of_target = step.specs[step.outputs.index(target)]
    scales = feature_size.measure([step], source, target, spec, of_target)
    is_padding = scales is not None and all(scale and scale.up == 1 for scale in scales)
    return not is_padding


def narrows(graph: Graph, cuts: Sequence[Cut]) -> bool:
    """Whether most kernels lie between two neighbouring cuts, with smaller maps.

    These have at most half of the height and width of the cut before them; maps of one
    pixel do not count. So it is between a U-Net's first skip and its last.
    """
    shapes = _shapes(graph)
    total = sum(step.weighted_layers for step in graph.steps)
    ends = [*(cut.position for cut in cuts[1:]), None]
    for cut, end in zip(cuts, ends, strict=True):
        steps, size = graph.steps[cut.position : end], shapes[cut.symbol][1:3]
        if 2 * sum(step.weighted_layers for step in steps) > total and any(
            _is_half(shapes[symbol], size) for step in steps for symbol in step.outputs
        ):
            return True
    return False


def _is_half(shape, size):
    if len(shape) != 4 or len(size) != 2 or None in (*shape[1:3], *size):
        return False
    return max(shape[1:3]) > 1 and all(2 * n <= m for n, m in zip(shape[1:3], size))


def _shapes(graph):
    """Symbol -> shape of each tensor of a network."""
    specs = graph.specs
    if None in graph.input_spec.shape[1:3]:
        size = image_size(graph)
        shape = (feature_size.BATCH, *size, graph.input_spec.shape[-1])
        inferred = {graph.input: keras.KerasTensor(shape, graph.input_spec.dtype)}
        try:
            for step in graph.steps:
                step.infer(inferred)
        except Exception:  # whatever a layer raises
            pass
        specs.update(inferred)
    return {symbol: tuple(spec.shape) for symbol, spec in specs.items()}


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
    is_pixel = len(spec.shape) == 4 and spec.shape[1] == 1
    pooled_away |= is_pixel and height.down > _LARGEST_STRIDE_TO_ONE_PIXEL
    upsampled = before.stride > 1 and height.up != 1
    return pooled_away or upsampled
