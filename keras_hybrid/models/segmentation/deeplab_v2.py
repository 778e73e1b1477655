"""DeepLab v2: a dilated backbone and a pyramid of dilated convolutions.

Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous
Convolution, and Fully Connected CRFs"; without the CRF, as in the adaptation work whose
set-up the paper follows (Tsai et al. 2018).
"""

import keras
from keras import ops

from keras_hybrid.models.segmentation.dilation import dilate

RATES = 6, 12, 18, 24
_VGG_STRIDE = 32


def deeplab_v2(backbone, num_classes, *, output_stride=8, rates=RATES):
    """Builds a segmentation network of Keras's own layers.

    A VGG gets its fc6 and fc7 back as dilated 3x3 convolutions of 1024 channels. Then
    one 3x3 convolution to `num_classes` for each of the rates; their sum is resized to
    the image, bilinearly.

    Example:

    >>> backbone = keras_hybrid.applications.load("VGG16", input_shape=(360, 480, 3))
    >>> deeplab_v2(backbone, num_classes=11)(np.zeros((1, 360, 480, 3))).shape
    TensorShape([1, 360, 480, 11])

    Args:
        backbone: A Functional network of images (B, H, W, 3), without a top. Its layers
            are copied, with their weights. With H and W None the images' sizes must be
            multiples of `output_stride`; see `at_size` for where they vary.
        num_classes: Channels of the logits.
        output_stride: Pixels of the image per pixel of the backbone's last map: 8, 16
            or another stride of the backbone.
        rates: Dilations of the pyramid.

    Returns:
        A Functional model from images to float32 logits (B, H, W, num_classes).

    Raises:
        ValueError: `backbone` lacks the stride.
    """
    base = dilate(backbone, output_stride)
    x = base.output
    if base.name.startswith("vgg"):
        for name in ("fc6", "fc7"):
            dilation = _VGG_STRIDE // output_stride
            x = _convolution(1024, dilation, name, activation="relu")(x)
    initializer = keras.initializers.RandomNormal(stddev=0.01)
    branches = [
        _convolution(num_classes, rate, f"aspp_{rate}", kernel_initializer=initializer)(x)
        for rate in rates
    ]
    x = keras.layers.Add(dtype="float32", name="aspp")(branches)
    logits = _resize(x, base.input_shape[1:3], output_stride)
    return keras.Model(base.input, logits, name=f"deeplab_v2_{base.name}")


def at_size(model, height, width):
    """The same network for images of one size, as exports need it.

    In a graph Keras 3.15 cannot resize to a size that it does not know: `evaluate` on
    images of several sizes needs a network of each.
    """
    image = keras.Input((height, width, *model.input_shape[3:]), name="image")
    return keras.Model(image, model(image), name=model.name)


def with_label_map(model):
    """The model with the most likely class of each pixel, uint8 (B, H, W), for output.

    Args:
        model: Maps images to scores (B, H, W, C) of up to 256 classes.
    """
    _, labels = ops.top_k(model.output, k=1)
    labels = ops.cast(ops.squeeze(labels, axis=-1), "uint8")
    return keras.Model(model.input, labels, name=model.name)


def _convolution(channels, dilation, name, **kwargs):
    return keras.layers.Conv2D(
        channels, 3, padding="same", dilation_rate=dilation, name=name, **kwargs
    )


def _resize(x, image_size, output_stride):
    if None in image_size:
        return keras.layers.UpSampling2D(
            output_stride, interpolation="bilinear", dtype="float32", name="logits"
        )(x)
    return keras.layers.Resizing(*image_size, dtype="float32", name="logits")(x)
