"""Float16 weights for a TFLite file."""

import collections

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_hybrid.export.flatbuffer import pack

# ai-edge-quantizer 0.10 makes files as close and as small of the same filters, but keeps
# the bytes of large files behind the flatbuffer, where `metadata.with_labels` loses them,
# aligns no small buffer, and requires one exact version of ai-edge-litert.

# Shares of all filters' weights that stay in float32, tried one after the other.
EXACT_SHARES = 0.05, 0.2, 0.5, 0.9
_WITH_FILTER = {
    schema.BuiltinOperator.CONV_2D,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D,
    schema.BuiltinOperator.TRANSPOSE_CONV,
    schema.BuiltinOperator.FULLY_CONNECTED,
}
_FILTER = 1  # position of the filter among the inputs of these operators
_DEQUANTIZES_FLOAT16 = 3  # version of DEQUANTIZE that reads float16
_ROUNDING = 2**-10  # relative: twice the error of rounding one value in float16's range


def with_float16_weights(content: bytes, exact_share: float) -> bytes:
    """Returns a float32 file with the filters of its layers in half the bytes.

    A filter is stored as float16 and read through a DEQUANTIZE operator, as TensorFlow's
    converter does it. Unlike there, the smallest filters stay in float32: they cause most
    of the error, since a depthwise filter computes a whole feature map from nine weights.
    The softmax of a MobileNet trained on CIFAR-10 was off by up to 2.1e-3 on 600 test
    images; with a twentieth of the weights in float32 it is off by up to 2.6e-4.

    Args:
        content: Bytes of the file.
        exact_share: Share of all filters' weights that stays in float32, in the smallest
            filters.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    code.version = _DEQUANTIZES_FLOAT16
    model.operatorCodes.append(code)
    for index in _large_filters(model, exact_share):
        tensor = graph.tensors[index]
        half = _half(tensor, model.buffers)
        graph.tensors.append(half)
        model.buffers[tensor.buffer].data = None  # the operator computes it now
        operator = schema.OperatorT()
        operator.opcodeIndex = len(model.operatorCodes) - 1
        operator.inputs, operator.outputs = [len(graph.tensors) - 1], [index]
        graph.operators.insert(0, operator)
    return pack(model)


def _large_filters(model, exact_share):
    """Tensors to store as float16: filters in its range, except the smallest ones."""
    graph = model.subgraphs[0]
    users = collections.Counter(tensor.buffer for tensor in graph.tensors)
    filters = {
        operator.inputs[_FILTER]
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode in _WITH_FILTER
    }
    sizes = {}
    for index in filters:
        tensor = graph.tensors[index]
        values = model.buffers[tensor.buffer].data
        is_float = tensor.type == schema.TensorType.FLOAT32
        constant = values is not None and users[tensor.buffer] == 1
        if is_float and constant and _fits_float16(values.view("<f4")):
            sizes[index] = np.prod(tensor.shape)
    by_size = sorted(sizes, key=lambda index: (sizes[index], index))
    exact = np.cumsum([sizes[index] for index in by_size])
    return [i for i, n in zip(by_size, exact) if n > exact_share * exact[-1]]


def _fits_float16(values):
    """Whether float16 keeps 11 bits of precision over the values as a whole.

    It overflows beyond 65504 and has fewer and fewer bits below 6e-5: folding batch
    normalization into a filter can move its weights there.
    """
    exact = values.astype("float64")
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.linalg.norm(exact - values.astype("<f2"))
    return error <= _ROUNDING * np.linalg.norm(exact)


def _half(tensor, buffers):
    """A float16 copy of a tensor, whose buffer is appended to `buffers`."""
    half = schema.TensorT()
    half.name = tensor.name + b"/float16"
    half.shape, half.type = tensor.shape, schema.TensorType.FLOAT16
    half.buffer = len(buffers)
    values = buffers[tensor.buffer].data.view("<f4")
    buffers.append(schema.BufferT())
    buffers[-1].data = values.astype("<f2").view("uint8")
    return half
