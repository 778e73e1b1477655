"""What makes one network's map fit the other's next stage."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_hybrid")
class Adapter(keras.layers.Layer):
    """1x1 convolution, then bilinear resize where the size differs.

    Paper, "Hybrid Forward": each map is processed by a 1x1 convolution to match the
    width of the next stage, and interpolated where padding has made the sizes differ.

    Args:
        channels: Channels of the map to make.
        resizes: Whether sizes can differ at all.
    """

    def __init__(self, channels, resizes=True, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.resizes = resizes
        self.convolution = keras.layers.Conv2D(
            channels, 1, dtype=self.dtype_policy, name="convolution"
        )
        # XLA has no gradient of TensorFlow's bilinear resize.
        self.supports_jit = not resizes or keras.backend.backend() != "tensorflow"

    def build(self, input_shape):
        self.convolution.build(input_shape)

    def call(self, x, size):
        """Adapts `x` (B, H, W, C) to (B, *size, channels)."""
        x = self.convolution(x)
        return resize(x, tuple(size)) if self.resizes else x

    def compute_output_shape(self, input_shape, size=(None, None)):
        size = size if self.resizes else input_shape[1:3]
        return (input_shape[0], *size, self.channels)

    def get_config(self):
        config = {"channels": self.channels, "resizes": self.resizes}
        return {**super().get_config(), **config}


def resize(x, size):
    """Bilinear, of maps (B, H, W, C) to (height, width), known or not."""
    if _known(size) and tuple(x.shape[1:3]) == size:
        return x
    if _known(size):
        return ops.image.resize(x, size, interpolation="bilinear")
    # Keras resizes to known sizes only, and only TensorFlow has others.
    import tensorflow as tf

    return tf.cast(tf.image.resize(x, size), x.dtype)


def _known(size):
    return all(isinstance(n, int) for n in size)
