"""Region proposal network (Ren et al. 2015): is there an object, and where exactly?"""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import layers, ops

from keras_hybrid.training.types import Tensor


@keras.saving.register_keras_serializable("keras_hybrid")
class RegionProposalNetwork(layers.Layer):
    """Predicts a score and deltas for every anchor from the feature map it lies on.

    All feature maps share one 3x3 convolution. Each has two 1x1 convolutions of its own,
    since the number of anchors per cell may differ between maps.

    Args:
        anchors_per_cell: Number of anchors per cell of each feature map.
    """

    def __init__(self, anchors_per_cell: Iterable[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.anchors_per_cell = tuple(anchors_per_cell)

    def build(self, input_shapes: Sequence[Sequence[int | None]]) -> None:
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

    def call(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Computes the predictions from feature maps (B, H, W, C).

        Returns:
            float32 logits (B, A) and deltas (B, A, 4), in the order of
            `anchors.anchors_of`.
        """
        logits, deltas = [], []
        for x, score, shift in zip(maps, self.scores, self.shifts, strict=True):
            x = self.trunk(x)
            anchors = score.filters * x.shape[1] * x.shape[2]
            logits.append(ops.reshape(score(x), (-1, anchors)))
            deltas.append(ops.reshape(shift(x), (-1, anchors, 4)))
        return [ops.cast(ops.concatenate(x, 1), "float32") for x in (logits, deltas)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "anchors_per_cell": self.anchors_per_cell}
