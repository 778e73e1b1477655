"""A network that returns its intermediate feature maps besides its predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

from keras import ops

from keras_hybrid.baselines.before_activation import before_activation
from keras_hybrid.hybrid.cuts import Cut
from keras_hybrid.hybrid.stages import Network, has_backbone
from keras_hybrid.hybrid.tokens import to_map
from keras_hybrid.training.types import Tensor


class FeatureExtractor:
    """Runs a network and keeps the feature maps that a method compares.

    Args:
        network: The network to run.
        cuts: Places in the network whose feature maps to keep.
        takes: `"before_activation"` for the inputs of the activation functions that make
            the feature maps there; anything else for these themselves.
        whole: Whether to run all of the network; if not, it ends at the last of these
            feature maps, and there are no predictions.
        any_size: Whether images may have another size than in the graph.

    Attributes:
        shapes: Shapes of the feature maps with None for the batch: (None, H, W, C), and
            for H and W with `any_size`.
    """

    def __init__(
        self,
        network: Network,
        cuts: Sequence[Cut],
        takes: str,
        whole: bool = True,
        any_size: bool = False,
    ) -> None:
        self._graph, self._whole = network.graph, whole
        has_head = whole and has_backbone(network.model)
        self._head = network.model.head if has_head else None
        self._cuts = cuts
        self._symbols = [cut.symbol for cut in cuts]
        self.shapes = [_shape(cut, network, any_size) for cut in cuts]
        if takes == "before_activation":
            for i, symbol in enumerate(self._symbols):
                self._graph, self._symbols[i] = before_activation(self._graph, symbol)
        needed = {*self._symbols, *(cut.symbol for cut in cuts)}
        self._stop = None if whole else self._end_of(needed)

    def _end_of(self, symbols):
        """Number of the graph's steps up to the last one that makes one of `symbols`."""
        makes = [bool(symbols.intersection(step.outputs)) for step in self._graph.steps]
        return len(makes) - makes[::-1].index(True)

    def __call__(self, images: Tensor, training: bool) -> tuple[Any, list[Tensor]]:
        """Returns the predictions for images (B, H, W, C), and a list of feature maps."""
        values = self.run(images, training)
        return self.outputs(values, training), self.maps(values, images)

    def run(self, images: Tensor, training: bool) -> dict[int, Tensor]:
        """Returns all tensors that it computes, by their symbols."""
        graph = self._graph
        values = {graph.input: ops.cast(images, graph.input_spec.dtype)}
        graph.run(values, 0, self._stop, training)
        return values

    def outputs(self, values: Mapping[int, Tensor], training: bool) -> Any:
        """Returns the predictions, of what `run` returned; None if it is not whole."""
        if not self._whole:
            return None
        graph = self._graph
        outputs = graph.pack([values[symbol] for symbol in graph.outputs])
        return outputs if self._head is None else self._head(outputs, training=training)

    def maps(self, values: Mapping[int, Tensor], images: Tensor) -> list[Tensor]:
        """Returns the feature maps, of what `run` returned for `images`."""
        size = ops.shape(images)[1:3]
        return [
            _as_map(values[symbol], cut, size)
            for symbol, cut in zip(self._symbols, self._cuts, strict=True)
        ]


def _as_map(x, cut, image_size):
    return x if cut.prefix is None else to_map(x, cut.prefix, cut.size(image_size))


def _shape(cut, network, any_size):
    if any_size:
        return None, None, None, cut.channels
    if cut.prefix is None:
        return tuple(cut.spec.shape)
    return None, *cut.size(network.graph.input_spec.shape[1:3]), cut.channels
