"""A network that gives the maps within it besides its predictions."""

from keras import ops

from keras_hybrid.baselines.before_activation import before_activation
from keras_hybrid.hybrid.stages import has_backbone


class FeatureExtractor:
    """Runs a network and keeps what a method compares.

    Args:
        network: A `Network`.
        cuts: Its `Cut`s to look at.
        takes: `"stages"` for the maps there, `"before_activation"` for what goes into
            the activation functions that make them.

    Attributes:
        shapes: Of what it gives, without the size of the batch: (None, H, W, C).
    """

    def __init__(self, network, cuts, takes):
        self._graph = network.graph
        self._head = network.model.head if has_backbone(network.model) else None
        self._symbols = [cut.symbol for cut in cuts]
        specs = {s: spec for step in self._graph.steps for s, spec in _outputs(step)}
        self.shapes = [tuple(specs[symbol].shape) for symbol in self._symbols]
        if takes == "before_activation":
            for i, symbol in enumerate(self._symbols):
                self._graph, self._symbols[i] = before_activation(self._graph, symbol)

    def __call__(self, images, training):
        """Returns the predictions for images (B, H, W, C), and a list of maps."""
        graph = self._graph
        values = {graph.input: ops.cast(images, graph.input_spec.dtype)}
        graph.run(values, 0, None, training)
        outputs = graph.pack([values[symbol] for symbol in graph.outputs])
        if self._head is not None:
            outputs = self._head(outputs, training=training)
        return outputs, [values[symbol] for symbol in self._symbols]


def _outputs(step):
    return zip(step.outputs, step.specs, strict=True)
