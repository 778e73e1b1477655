"""Where a network can be cut: the last single tensor at each spatial scale.

Shape shorthand: images are (B, H, W, C). A *cut* is a feature map of rank 4 through which
every route from the input to the outputs passes. A *stage* ends at the last cut before a
downsampling layer (paper, "Hybrid Forward").
"""

import dataclasses
import itertools
import warnings
from collections.abc import Collection, Sequence

import keras

from keras_hybrid.hybrid import cuts as cuts_lib
from keras_hybrid.hybrid import graph as graph_lib
from keras_hybrid.hybrid import precision
from keras_hybrid.hybrid.cuts import Cut
from keras_hybrid.hybrid.open_layer import keeps_blocks
from keras_hybrid.training.types import Tensor

# Stages of a network of a single stride, as many as networks with strides mostly have.
_PARTS = 4
# A branch with fewer kernels than a stage of an encoder, or with a larger stride, is one
# of pyramid pooling.
_LEAST_WEIGHTED_LAYERS = 2
_LARGEST_STRIDE = 4
# Activations and layers that make predictions.
_PROBABILITIES = {"softmax", "sigmoid"}
# Numbers of channels that images have.
_CHANNELS = {1, 3, 4}
# Pixels by which images are enlarged to try whether a network takes any size.
_OTHER_SIZE = 32


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
    `(None, None, 3)`, and looks into nested models and into layers that keep their blocks
    in a list. Padding layers, which only enlarge a map, and global pooling do not count
    as scales. For a model with a `.backbone` and a `.head`, the stages are those of the
    backbone; for one with skips, such as a U-Net, those of the way to its coarsest map.

    `HybridTransfer` ends a student's last stage before the last layers with weights.

    Feature maps may be tokens (B, P + H * W, C) with P prefix tokens. A network of a
    single stride, such as a ViT, has four stages of equal depth that end behind a block.

    Example:

    >>> stages = keras_hybrid.find_stages(keras.applications.ResNet50(weights=None))
    >>> [(s.layer_name, s.stride, s.channels) for s in stages[:2]]
    [('conv1_relu', 2, 64), ('conv2_block3_out', 4, 256)]

    Args:
        model: A `keras.Model` that takes images (B, H, W, C).

    Returns:
        A list of `Stage`s, shallowest first; empty if the network never narrows to a
        single tensor. A warning says why there are few, where that is known.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: `model` is not built, is not Functional or Sequential, or does not
            take one batch of images.
    """
    network = Network(model, "model")
    if network.obstacle:
        warnings.warn(
            f"{model.name!r} can hardly be cut: {network.obstacle}.", stacklevel=2
        )
    return network.stages


class Network:
    """The part of a model that can be cut, and its cuts.

    Of several outputs, only those count whose route from the image passes through the
    coarsest map: a pyramid's finer maps and an auxiliary head branch off before it.
    The stages of a student end before the layers that make its predictions.

    Args:
        model: The model.
        argument: `"teacher"`, `"student"` or `"model"`, as errors name it.
        dtype: What it computes in, see `precision`; None for what its layers say.

    Attributes:
        graph: The `Graph` of the Functional model, or of the `.backbone`.
        start: The input, as a `Cut`.
        cuts: Every cut before global pooling or upsampling.
        stage_cuts: The cuts that end a stage: one per stride, or those at which a network
            of a single stride is in four parts of equal depth.
        stages: The same cuts as `Stage`s.
        obstacle: Why the network can hardly be cut and what to do about it, or None.
    """

    def __init__(
        self, model: keras.Model, argument: str, dtype: str | None = None
    ) -> None:
        self.model = model
        self._dtype = dtype
        graph = graph_lib.flatten(_trunk(model, argument))
        self.start = Cut(0, graph.input, graph.input_spec)
        chains = [_chain(graph, self.start, output) for output in graph.outputs]
        self.graph, self.cuts = max(chains, key=lambda chain: _depth(chain[1]))
        branches = [
            cuts
            for output, (_, cuts) in zip(graph.outputs, chains, strict=True)
            if output not in {c.symbol for c in self.cuts}
        ]
        encoder = _encoder(graph, self.start, self.cuts)
        widens = _widens(*encoder) if encoder else None
        if encoder and not widens:
            branches, (self.graph, self.cuts) = [], encoder
        ends = [] if widens else _ends(self.graph, self.cuts, branches)
        if _has_head(self.graph, model, argument):
            ends = _before_head(self.graph, ends)
        self.stage_cuts = _stage_cuts(self.graph, ends)
        self.obstacle = _obstacle(self.graph, ends, self.stage_cuts, widens)

    @property
    def stages(self) -> list[Stage]:
        return [
            Stage(f"stage{i}", cut.layer_name, cut.stride, cut.channels)
            for i, cut in enumerate(self.stage_cuts, start=1)
        ]

    def run(
        self,
        values: dict[int, Tensor],
        start: int,
        stop: int,
        training: bool,
        wanted: Collection[int] | None = None,
    ) -> None:
        """Runs a part of the graph, see `Graph.run`, in the dtype of this network."""
        with precision.computing_in(self._dtype, self.model):
            self.graph.run(values, start, stop, training, wanted)

    def takes(self, size: Sequence[int | None]) -> bool:
        """Whether the network takes images of (height, width), None for any.

        Position embeddings and windows of attention fix the size of a transformer. Since
        layers may declare otherwise, a network for images of one size is tried out.
        """
        own = tuple(self.graph.input_spec.shape[1:3])
        if None in own or tuple(size) == own or not self.stage_cuts:
            return True
        if any(cut.prefix is not None for cut in self.cuts):
            return False
        tried = tuple(n or m + _OTHER_SIZE for n, m in zip(size, own, strict=True))
        return cuts_lib.runs_at(self.graph, self.start, self.stage_cuts[-1], tried)

    def weighted_layers(self, start: Cut, end: Cut) -> int:
        """Number of weighted layers on the longest route from `start` to `end`."""
        return _weighted_layers(self.graph, start, end)


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
    return graph, list(cuts_lib.chain(graph, start, target, stop))


def _coarsest(cuts):
    return cuts[-1].stride if cuts else 0


def _depth(cuts):
    return _coarsest(cuts), len(cuts)


def _encoder(graph, start, cuts):
    """The graph and cuts of the way to the coarsest map, where skips bypass it.

    None where every route passes through the coarsest map, at the end of `cuts`.
    """
    enlarged = cuts_lib.enlarged(graph)
    encoders = []
    for each in enlarged:
        reordered, found = _chain(graph, start, each.symbol)
        if not found or found[-1].symbol != each.symbol:
            continue
        if _is_deeper(reordered, start, found, cuts) and not _is_branch_of_pyramid(
            reordered, start, each, enlarged, found
        ):
            encoders.append((reordered, found))
    return max(encoders, key=lambda encoder: _depth(encoder[1]), default=None)


def _is_deeper(graph, start, found, cuts):
    """Whether a way leads to a coarser map than `cuts` do, or through more blocks.

    The blocks of a plain transformer have one stride, that of its patches.
    """
    end, coarsest = found[-1], _coarsest(cuts)
    if any(cut.prefix is not None for cut in found):
        deeper = _depth(found) > _depth(cuts)
        known = {cut.symbol for cut in cuts}
        shared = [start, *(c for c in found if c.symbol in known)][-1]
    else:
        deeper = end.stride > coarsest and all(
            b.stride <= _LARGEST_STRIDE * a.stride for a, b in itertools.pairwise(found)
        )
        shared = [start, *(c for c in found if c.stride <= coarsest)][-1]
    return deeper and _weighted_layers(graph, shared, end) >= _LEAST_WEIGHTED_LAYERS


def _is_branch_of_pyramid(graph, start, each, enlarged, found):
    """Whether a map is one of several that are resized to what they were pooled from."""
    finer = [start, *(c for c in found if c.stride < found[-1].stride)][-1]
    return (
        each.after == finer.size(cuts_lib.image_size(graph))
        and len({other.before for other in enlarged if other.after == each.after}) > 1
        and _weighted_layers(graph, finer, found[-1]) < _LEAST_WEIGHTED_LAYERS
    )


def _weighted_layers(graph, start, end):
    return graph.weighted_layers(start.position, end.position, start.symbol, end.symbol)


def _ends(graph, cuts, branches):
    """The cuts that may end a stage: those before all branches to the coarsest map."""
    coarsest = _coarsest(cuts)
    shared = {c.symbol for c in cuts}.intersection(
        *(
            {c.symbol for c in branch}
            for branch in branches
            if _coarsest(branch) == coarsest
        )
    )
    return [c for c in cuts if c.symbol in shared and c.is_weighted and not c.is_padding]


def _has_head(graph, model, argument):
    """Whether the last layers with weights make the predictions.

    Those of a student do, unless its head is the layer `.head`.
    """
    if argument == "student" and not has_backbone(model):
        return True
    made_by = {symbol: step for step in graph.steps for symbol in step.outputs}
    for output in graph.outputs:
        while (step := made_by.get(output)) is not None:
            if _makes_probabilities(step.operation):
                return True
            if step.weights or len(step.inputs) > 1:
                break  # what comes before is no longer the output alone
            (output,) = step.inputs.values()
    return False


def _makes_probabilities(operation):
    activation = getattr(getattr(operation, "activation", None), "__name__", "")
    return {activation, type(operation).__name__.lower()} & _PROBABILITIES


def _before_head(graph, ends):
    """The cuts behind which there are weights, if each stride has one."""
    before = [
        cut
        for cut in ends
        if any(
            graph.weighted_layers(cut.position, None, cut.symbol, output)
            for output in graph.outputs
        )
    ]
    strides, left = ({cut.stride for cut in each} for each in (ends, before))
    return before if left == strides else ends


def _stage_cuts(graph, ends):
    """The cuts that end a stage, of those that may."""
    by_stride = {c.stride: c for c in ends}
    is_plain = len(by_stride) == 1 and not cuts_lib.narrows(graph, ends)
    return (_parts(graph, ends) if is_plain else []) or list(by_stride.values())


def _widens(graph, cuts):
    """Name of the layer at which the way to the last cut widens again, or None.

    An image that is enlarged first, and maps that are pooled and resized to the size of
    the last cut at most, as in pyramid pooling, do not count.
    """
    enlargements = cuts_lib.enlarged(graph)
    (coarsest,) = [e.before for e in enlargements if e.symbol == cuts[-1].symbol]
    image = cuts_lib.image_size(graph)
    before = [
        each
        for each in enlargements
        if each.position < cuts[-1].position
        and each.after > coarsest
        and (1, 1) < each.before < image
    ]
    return max(before, key=lambda each: each.position).step if before else None


def _obstacle(graph, ends, stage_cuts, widens):
    """Why a network can hardly be cut, and what to do about it; None if it can be."""
    if widens:
        return (
            f"it narrows, widens at {widens!r} and narrows again, as a stacked hourglass "
            "does, so that no part of it is its encoder: name the layers at which paths "
            "change network in `switch_points`"
        )
    if len(stage_cuts) == 1 and cuts_lib.narrows(graph, ends):
        return (
            f"behind {ends[0].layer_name!r} it has maps of several sizes side by side, "
            "and no layer is seen to enlarge them: enlarge them with layers such as "
            "UpSampling2D or Conv2DTranspose, called in the model itself"
        )
    shape = graph.input_spec.shape
    if not stage_cuts and shape[1] in _CHANNELS and shape[3] not in _CHANNELS:
        return (
            f"it takes images of shape {shape[1:]}, which seem to have their channels "
            "first: build it with channels last"
        )
    hidden = [step for step in graph.steps if keeps_blocks(step.operation)]
    if hidden and len({cut.layer_name for cut in stage_cuts}) < 2:
        layer = hidden[0].operation
        return (
            f"its blocks are hidden inside of the layer {hidden[0].name!r} "
            f"({type(layer).__name__}): use a model of the same network that calls its "
            "blocks one by one, such as those of zeromodels"
        )
    return None


def _parts(graph, cuts):
    """The ends of four parts of equal depth, each behind one of a network's blocks."""
    ends = _block_ends(graph, cuts)
    count = min(_PARTS, len(ends))
    return [ends[-(-len(ends) * i // count) - 1] for i in range(1, count + 1)]


def _block_ends(graph, cuts):
    """The cuts behind the blocks of the longest stretch of equal blocks.

    A block is a sequence of sections between cuts that have weights, such as attention
    and a multilayer perceptron, each with a shortcut around it.
    """
    sections, ends, position = [], [], 0
    for cut in cuts:
        weighted = [
            type(step.operation).__name__
            for step in graph.steps[position : cut.position]
            if step.weights
        ]
        position = cut.position
        if weighted:
            sections.append(weighted)
            ends.append(cut)
        elif ends and cut.spec.shape == ends[-1].spec.shape:
            ends[-1] = cut  # an activation or dropout belongs to the section before it
    best = 0, 0, 1
    for length in range(1, len(sections) // 2 + 1):
        for first in range(len(sections) - length):
            equal = itertools.takewhile(
                lambda i, length=length: sections[i] == sections[i + length],
                range(first, len(sections) - length),
            )
            blocks = sum(1 for _ in equal) // length + 1
            if blocks > 1 and blocks * length > best[0] * best[2]:
                best = blocks, first, length
    blocks, first, length = best
    return [ends[first + length * (i + 1) - 1] for i in range(blocks)]
