"""DeepLab v2: a dilated backbone and a pyramid of dilated convolutions.

Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous
Convolution, and Fully Connected CRFs"; without the CRF, as in Tsai et al. (2018), the
domain adaptation work whose setup the paper follows.
"""

from collections.abc import Sequence

import keras
from keras import ops

from keras_hybrid.models.segmentation.dilation import dilate

RATES = 6, 12, 18, 24
_VGG_STRIDE = 32
_SIDE = 256  # pixels of an image to try


def deeplab_v2(
    backbone: keras.Model,
    num_classes: int,
    *,
    output_stride: int = 8,
    rates: Sequence[int] = RATES,
) -> keras.Model:
    """Builds a segmentation network from Keras's own layers.

    A VGG gets back its fc6 and fc7, as dilated 3x3 convolutions with 1024 channels. One
    3x3 convolution per rate then predicts `num_classes` channels, and their sum is
    resized bilinearly to the size of the image.

    Example:

    >>> backbone = keras_hybrid.applications.load("VGG16", input_shape=(360, 480, 3))
    >>> deeplab_v2(backbone, num_classes=11)(np.zeros((1, 360, 480, 3))).shape
    TensorShape([1, 360, 480, 11])

    Args:
        backbone: Functional model that takes images (B, H, W, 3), without a top. Its
            layers and weights are copied. If H and W are None, the height and width of
            the images must be multiples of `output_stride`; see `at_size` if they vary.
        num_classes: Number of channels of the logits.
        output_stride: Image pixels per pixel of the backbone's last feature map: 8, 16
            or another stride of the backbone.
        rates: Dilation rates of the pyramid.

    Returns:
        A Functional model from images to float32 logits (B, H, W, num_classes).

    Raises:
        ValueError: `backbone` has no such stride, or takes images of any size and loses
            their borders, as Inception networks do.
    """
    base = dilate(backbone, output_stride)
    _check_borders(base, output_stride)
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


def at_size(model: keras.Model, height: int, width: int) -> keras.Model:
    """Returns the same network for images of one size, as an export needs it.

    Keras 3.15 cannot resize to an unknown size inside a graph, so `evaluate` on images
    of several sizes needs one such network per size.
    """
    image = keras.Input((height, width, *model.input_shape[3:]), name="image")
    return keras.Model(image, model(image), name=model.name)


def with_label_map(model: keras.Model) -> keras.Model:
    """Returns a model that predicts each pixel's most likely class, uint8 (B, H, W).

    Args:
        model: Model from images to scores (B, H, W, C) of at most 256 classes.
    """
    _, labels = ops.top_k(model.output, k=1)
    labels = ops.cast(ops.squeeze(labels, axis=-1), "uint8")
    return keras.Model(model.input, labels, name=model.name)


def _check_borders(backbone, output_stride):
    """Refuses a backbone for images of any size whose last map does not cover them."""
    if None not in backbone.input_shape[1:3]:
        return  # the logits are resized to the one size
    image = keras.KerasTensor((1, _SIDE, _SIDE, backbone.input_shape[-1]))
    try:
        side = backbone.compute_output_spec(image).shape[1]
    except ValueError:  # its branches differ in size
        side = None
    if side != _SIDE // output_stride:
        raise ValueError(
            f"`backbone` must pad its convolutions. Those of {backbone.name!r} lose the "
            "borders of the images. Take one such as MobileNetV2 or ResNet50"
        )


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
