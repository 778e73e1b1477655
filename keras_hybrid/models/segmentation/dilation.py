"""Dilated networks: the last stages keep their resolution and dilate their kernels.

Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous
Convolution, and Fully Connected CRFs", section 3.1.
"""

import dataclasses

import keras

from keras_hybrid.hybrid.stages import Network, Stage

_CONVOLUTIONS = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)
_POOLINGS = keras.layers.MaxPooling2D, keras.layers.AveragePooling2D


def dilate(model: keras.Model, output_stride: int) -> keras.Model:
    """Copies a network so that it downsamples its images by `output_stride` at most.

    A convolution that would downsample further has stride 1 in the copy, and the kernels
    after it are dilated by the stride it lost, on top of any dilation of their own: at
    the pixels that both networks have, the copy computes the same values. A pooling layer
    that would downsample further is left out, as DeepLab v2 does for VGG; from there on
    the values differ.

    Example:

    >>> network = keras_hybrid.applications.load("ResNet101", weights=None)
    >>> dilate(network, 8)(np.zeros((1, 64, 96, 3))).shape
    TensorShape([1, 8, 12, 2048])

    Args:
        model: Functional model that takes images (B, H, W, C), without a top.
        output_stride: Image pixels per pixel of the last feature map.

    Returns:
        A Functional model with the weights and layer names of `model`; nested models are
        flattened.

    Raises:
        ValueError: `model` has no such stride.
    """
    network = Network(model, "model")
    strides = [stage.stride for stage in network.stages]
    if output_stride not in strides:
        raise ValueError(
            f"`output_stride` must be a stride of {model.name!r}, one of {strides}. "
            f"Received: output_stride={output_stride}"
        )
    graph = network.graph
    image = keras.Input(graph.input_spec.shape[1:], name="image")
    values, resolutions = {graph.input: image}, {graph.input: _Resolution()}
    producers = {symbol: step for step in graph.steps for symbol in step.outputs}
    copies = {}
    for step in graph.steps:
        layer, sources = step.operation, list(step.inputs.values())
        resolution = max(resolutions[source] for source in sources)
        drops_stride = resolution.stride * _stride(layer) > output_stride
        after = resolution.after(_stride(layer), drops_stride)
        resolutions.update(dict.fromkeys(step.outputs, after))
        if drops_stride and isinstance(layer, _POOLINGS):
            values[step.outputs[0]] = values[sources[0]]
            continue
        inputs = {source: values[source] for source in sources}
        if drops_stride:
            padded_before = _padding(producers.get(sources[0]))
            dilation = resolution.dilation
            inputs[sources[0]] = _pad(inputs[sources[0]], layer, padded_before, dilation)
        if id(layer) not in copies:
            copies[id(layer)] = _copy(layer, resolution.dilation, drops_stride)
        dataclasses.replace(step, operation=copies[id(layer)]).run(inputs)
        values.update({symbol: inputs[symbol] for symbol in step.outputs})
    outputs = graph.pack([values[symbol] for symbol in graph.outputs])
    dilated = keras.Model(image, outputs, name=model.name)
    for step in graph.steps:
        if getattr(step.operation, "weights", ()):
            copies[id(step.operation)].set_weights(step.operation.get_weights())
    return dilated


def undilated_stages(model: keras.Model) -> list[Stage]:
    """Finds the stages of a network as `find_stages` does, as if it were not dilated.

    A feature map of stride 8 whose kernels are dilated by 2 counts as one of stride 16.
    The search ends where kernels of several dilations meet, as in DeepLab's pyramid.

    Args:
        model: A `keras.Model` that takes images (B, H, W, C).

    Returns:
        A list of `Stage`, one per stride, shallowest first.
    """
    network = Network(model, "model")
    stages, position, dilation = {}, 0, 1
    for cut in network.cuts:
        found = {
            _dilation(s.operation) for s in network.graph.steps[position : cut.position]
        }
        found.discard(None)
        if len(found) > 1:
            break
        position, dilation = cut.position, *(found or {dilation})
        if cut.is_weighted and not cut.is_padding:
            stride = cut.stride * dilation
            stages[stride] = Stage("", cut.layer_name, stride, cut.channels)
    return [
        dataclasses.replace(stage, name=f"stage{i}")
        for i, stage in enumerate(stages.values(), start=1)
    ]


def undilated_switch_points(
    teacher: keras.Model, student: keras.Model
) -> list[tuple[str, str]] | None:
    """Returns the pairs of layers that would have equal strides without dilation.

    None if there are fewer than two: the error that `HybridTransfer` then raises lists
    the stages of both networks.
    """
    ends = {stage.stride: stage.layer_name for stage in undilated_stages(student)}
    pairs = [
        (stage.layer_name, ends[stage.stride])
        for stage in undilated_stages(teacher)
        if stage.stride in ends
    ]
    return pairs if len(pairs) > 1 else None


@dataclasses.dataclass(frozen=True, order=True)
class _Resolution:
    """Stride of a tensor in the dilated network, and dilation of the kernels there."""

    stride: int = 1
    dilation: int = 1

    def after(self, stride, drops_stride):
        if drops_stride:
            return _Resolution(self.stride, self.dilation * stride)
        return _Resolution(self.stride * stride, self.dilation)


def _stride(layer):
    return layer.strides[0] if isinstance(layer, _CONVOLUTIONS + _POOLINGS) else 1


def _dilation(layer):
    """Dilation rate of a convolution; None for layers that see one pixel at a time."""
    if isinstance(layer, _CONVOLUTIONS) and max(layer.kernel_size) > 1:
        return max(layer.dilation_rate)
    return None


def _padding(step):
    """Pixels that a padding layer adds: ((top, bottom), (left, right))."""
    if step is not None and isinstance(step.operation, keras.layers.ZeroPadding2D):
        return step.operation.padding
    return (0, 0), (0, 0)


def _pad(x, layer, padded_before, dilation):
    """Pads for a kernel that lost its stride, so that its first pixel stays the same."""
    padding = []
    for size, (before, after) in zip(layer.kernel_size, padded_before, strict=True):
        stride = _stride(layer)
        if layer.padding == "same":
            first = max(size - stride, 0) // 2
            sides = first, size - 1 - first
        else:
            # Enough for `stride` output pixels in place of each one of the original.
            sides = 0, stride - 1 - (before + after - size) % stride
        padding.append(tuple(dilation * side for side in sides))
    if not any(map(any, padding)):
        return x
    return keras.layers.ZeroPadding2D(padding, name=f"{layer.name}_dilated_pad")(x)


def _copy(layer, dilation, drops_stride):
    """The layer, dilated further; without its stride and padding if it `drops_stride`."""
    config = layer.get_config()
    if isinstance(layer, keras.layers.ZeroPadding2D):
        sides = config["padding"]
        config["padding"] = [[dilation * n for n in axis] for axis in sides]
    if _dilation(layer) is not None:
        # A product, since the network may be dilated already.
        config["dilation_rate"] = [dilation * rate for rate in layer.dilation_rate]
    if drops_stride:
        config["strides"] = 1
        config["padding"] = "valid"
    return type(layer).from_config(config)
