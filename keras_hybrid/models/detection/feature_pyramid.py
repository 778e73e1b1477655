"""Feature pyramid (Lin et al. 2017): adds coarse features to finer feature maps."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from keras_hybrid.training.types import Tensor


@keras.saving.register_keras_serializable("keras_hybrid")
class FeaturePyramid(layers.Layer):
    """Adds to each feature map the coarser ones, all with the same number of channels.

    A 1x1 convolution projects each map to `channels`. The sum with the next coarser one,
    resized, goes through a 3x3 convolution.

    Args:
        channels: Number of channels of every map.
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels

    def build(self, input_shapes: Sequence[Sequence[int | None]]) -> None:
        self.laterals, self.outputs = [], []
        for i, shape in enumerate(input_shapes):
            lateral = layers.Conv2D(
                self.channels, 1, name=f"lateral_{i}", dtype=self.dtype_policy
            )
            lateral.build(shape)
            output = layers.Conv2D(
                self.channels,
                3,
                padding="same",
                name=f"output_{i}",
                dtype=self.dtype_policy,
            )
            output.build((*shape[:3], self.channels))
            self.laterals.append(lateral)
            self.outputs.append(output)

    def call(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Makes a map (B, H, W, channels) of each map (B, H, W, C), finest first."""
        sums = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for i in reversed(range(len(sums) - 1)):
            size = sums[i].shape[1:3]
            sums[i] += ops.image.resize(sums[i + 1], size, interpolation="nearest")
        return [output(x) for output, x in zip(self.outputs, sums, strict=True)]

    def compute_output_shape(
        self, input_shapes: Sequence[Sequence[int | None]]
    ) -> list[tuple[int | None, ...]]:
        return [(*shape[:3], self.channels) for shape in input_shapes]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels}
