"""Feature pyramid (Lin et al. 2017): what coarse maps know, added to finer ones."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("keras_hybrid")
class FeaturePyramid(layers.Layer):
    """Maps of all strides in one width; each knows those of the coarser ones.

    A 1x1 convolution brings each map to the width; the sum with the next coarser one,
    resized, goes through a 3x3 convolution.

    Args:
        channels: The width.
    """

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels

    def build(self, input_shapes):
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

    def call(self, maps):
        """Maps (B, H, W, C) of rising strides to as many (B, H, W, channels)."""
        sums = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for i in reversed(range(len(sums) - 1)):
            size = sums[i].shape[1:3]
            sums[i] += ops.image.resize(sums[i + 1], size, interpolation="nearest")
        return [output(x) for output, x in zip(self.outputs, sums, strict=True)]

    def compute_output_shape(self, input_shapes):
        return [(*shape[:3], self.channels) for shape in input_shapes]

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}
