"""Dilated networks: the last stages keep their resolution and spread their kernels.

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


def dilate(model, output_stride):
    """Copies a network so that its maps shrink to 1/`output_stride` and no further.

    Convolutions that would go on have stride 1 in the copy, and the kernels behind them
    are spread out by as much, also where they are spread out already: at the pixels that
    both have, the copy computes what the original does. Poolings that would go on are
    left out, as from VGG in DeepLab v2; behind them the copy computes something else.

    Example:

    >>> network = keras_hybrid.applications.load("ResNet101", weights=None)
    >>> dilate(network, 8)(np.zeros((1, 64, 96, 3))).shape
    TensorShape([1, 8, 12, 2048])

    Args:
        model: A Functional network of images (B, H, W, C), without a top.
        output_stride: Pixels of the image per pixel of the last map.

    Returns:
        A Functional model with the weights and layer names of `model`; models nested in
        it are flattened.

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
    values, places = {graph.input: image}, {graph.input: _Place()}
    makers = {symbol: step for step in graph.steps for symbol in step.outputs}
    copies = {}
    for step in graph.steps:
        layer, sources = step.operation, list(step.inputs.values())
        place = max(places[source] for source in sources)
        ends = place.stride * _stride(layer) > output_stride
        places.update(dict.fromkeys(step.outputs, place.behind(_stride(layer), ends)))
        if ends and isinstance(layer, _POOLINGS):
            values[step.outputs[0]] = values[sources[0]]
            continue
        inputs = {source: values[source] for source in sources}
        if ends:
            padded_before = _padding(makers.get(sources[0]))
            inputs[sources[0]] = _pad(inputs[sources[0]], layer, padded_before, place)
        if id(layer) not in copies:
            copies[id(layer)] = _copy(layer, place.dilation, ends)
        dataclasses.replace(step, operation=copies[id(layer)]).run(inputs)
        values.update({symbol: inputs[symbol] for symbol in step.outputs})
    outputs = graph.pack([values[symbol] for symbol in graph.outputs])
    dilated = keras.Model(image, outputs, name=model.name)
    for step in graph.steps:
        if getattr(step.operation, "weights", ()):
            copies[id(step.operation)].set_weights(step.operation.get_weights())
    return dilated


def undilated_stages(model):
    """`find_stages` of a network that may be dilated, as if it were not.

    A map of stride 8 on which kernels are spread out by 2 counts as one of stride 16.
    The chain ends where kernels of several dilations meet, as in the pyramid of DeepLab.

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


@dataclasses.dataclass(frozen=True, order=True)
class _Place:
    """Where in a dilated network a tensor is."""

    stride: int = 1
    dilation: int = 1

    def behind(self, stride, ends):
        if ends:
            return _Place(self.stride, self.dilation * stride)
        return _Place(self.stride * stride, self.dilation)


def _stride(layer):
    return layer.strides[0] if isinstance(layer, _CONVOLUTIONS + _POOLINGS) else 1


def _dilation(layer):
    """None for layers that see one pixel at a time."""
    if isinstance(layer, _CONVOLUTIONS) and max(layer.kernel_size) > 1:
        return max(layer.dilation_rate)
    return None


def _padding(step):
    """Pixels that a padding layer adds: ((top, bottom), (left, right))."""
    if step is not None and isinstance(step.operation, keras.layers.ZeroPadding2D):
        return step.operation.padding
    return (0, 0), (0, 0)


def _pad(x, layer, padded_before, place):
    """Pads for a kernel that had a stride: its first pixel stays where it was."""
    padding = []
    for size, (before, after) in zip(layer.kernel_size, padded_before, strict=True):
        stride = _stride(layer)
        if layer.padding == "same":
            first = max(size - stride, 0) // 2
            sides = first, size - 1 - first
        else:
            # As many pixels as `stride` for each one of before.
            sides = 0, stride - 1 - (before + after - size) % stride
        padding.append(tuple(place.dilation * side for side in sides))
    if not any(map(any, padding)):
        return x
    return keras.layers.ZeroPadding2D(padding, name=f"{layer.name}_dilated_pad")(x)


def _copy(layer, dilation, ends):
    """The layer with another dilation, and without its stride if it `ends`."""
    config = layer.get_config()
    if isinstance(layer, keras.layers.ZeroPadding2D):
        sides = config["padding"]
        config["padding"] = [[dilation * n for n in axis] for axis in sides]
    if _dilation(layer) is not None:
        # A network that is dilated already has its kernels spread out still further.
        config["dilation_rate"] = [dilation * rate for rate in layer.dilation_rate]
    if ends:
        config["strides"] = 1
        config["padding"] = "valid"
    return type(layer).from_config(config)
