"""Region proposal network (Ren et al. 2015): is there an object, and where exactly?"""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("keras_hybrid")
class RegionProposalNetwork(layers.Layer):
    """A score and deltas for every anchor, from the map that it lies on.

    One 3x3 convolution for all maps; two 1x1 convolutions of each map's own, since maps
    may have different numbers of anchors.

    Args:
        anchors_per_cell: How many each map has.
    """

    def __init__(self, anchors_per_cell, **kwargs):
        super().__init__(**kwargs)
        self.anchors_per_cell = tuple(anchors_per_cell)

    def build(self, input_shapes):
        channels = input_shapes[0][-1]
        self.trunk = self._convolution(channels, 3, "conv", input_shapes[0], "relu")
        self.scores, self.shifts = [], []
        for i, count in enumerate(self.anchors_per_cell):
            shape = input_shapes[i]
            self.scores.append(self._convolution(count, 1, f"objectness_{i}", shape))
            self.shifts.append(self._convolution(4 * count, 1, f"deltas_{i}", shape))

    def _convolution(self, filters, size, name, shape, activation=None):
        layer = layers.Conv2D(
            filters,
            size,
            padding="same",
            activation=activation,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            name=name,
            dtype=self.dtype_policy,
        )
        layer.build(shape)
        return layer

    def call(self, maps):
        """Maps (B, H, W, C) to logits (B, A) and deltas (B, A, 4), in float32.

        The anchors are in the order of `anchors.anchors_of`.
        """
        logits, deltas = [], []
        for x, score, shift in zip(maps, self.scores, self.shifts, strict=True):
            x = self.trunk(x)
            anchors = score.filters * x.shape[1] * x.shape[2]
            logits.append(ops.reshape(score(x), (-1, anchors)))
            deltas.append(ops.reshape(shift(x), (-1, anchors, 4)))
        return [ops.cast(ops.concatenate(x, 1), "float32") for x in (logits, deltas)]

    def get_config(self):
        return {**super().get_config(), "anchors_per_cell": self.anchors_per_cell}
