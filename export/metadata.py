"""TFLite metadata: the labels of an output, where LiteRT's task libraries look for them.

Layout as in tflite-support's metadata_schema.fbs, version M001: a flatbuffer in the model
names the label file, and the file itself is in a zip archive appended to the model.
"""

import io
import zipfile
from collections.abc import Iterable

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_hybrid.export.flatbuffer import pack

LABEL_FILE = "labels.txt"
# TENSOR_AXIS_LABELS and TENSOR_VALUE_LABELS of AssociatedFileType.
_AXIS_LABELS, _VALUE_LABELS = 2, 3
# Positions of fields in the schema's tables.
_FILE_NAME, _FILE_DESCRIPTION, _FILE_TYPE = 0, 1, 2
_TENSOR_NAME, _TENSOR_FILES = 0, 6
_SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS = 2, 3
_MODEL_SUBGRAPHS, _MODEL_PARSER_VERSION = 3, 7


def with_labels(
    content: bytes, labels: Iterable[str], output: str, are_values: bool = False
) -> bytes:
    """Returns a TFLite file with names for the last axis of an output in its metadata.

    Args:
        content: Bytes of the file.
        labels: Names, one per position on the axis.
        output: Name of the output in the file's signature.
        are_values: Whether the labels name the output's values, from 0, instead.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    signature = model.signatureDefs[0]
    inputs, outputs = (
        {entry.tensorIndex: entry.name.decode() for entry in entries}
        for entries in (signature.inputs, signature.outputs)
    )
    graph = model.subgraphs[0]
    metadata = _metadata(
        [inputs[i] for i in graph.inputs],
        [outputs[i] for i in graph.outputs],
        output,
        _VALUE_LABELS if are_values else _AXIS_LABELS,
    )
    model.buffers.append(schema.BufferT())
    model.buffers[-1].data = np.frombuffer(metadata, "uint8")
    entry = schema.MetadataT()
    entry.name, entry.buffer = "TFLITE_METADATA", len(model.buffers) - 1
    model.metadata = [*(model.metadata or ()), entry]
    file = io.BytesIO(pack(model))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(LABEL_FILE, "".join(f"{label}\n" for label in labels))
    return file.getvalue()


def label_names(labels: Iterable[str]) -> list[str]:
    """Returns labels as the names of a file with one name per line.

    What may be left from reading such a file is removed: a byte order mark before the
    first name, line ends after each. A name may be empty.

    Raises:
        ValueError: `labels` is not a list of names, or a name contains a line break,
            which would shift all names after it.
    """
    names = [] if isinstance(labels, str) else list(labels)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`labels` must be a list of names. Received: labels={labels!r}")
    names[0] = names[0].removeprefix("\ufeff")
    names = [name.rstrip("\r\n") for name in names]
    for i, name in enumerate(names):
        if len(name.splitlines()) > 1:
            raise ValueError(
                "`labels` must be names without line breaks: the label file has one "
                f"name per line. Received: label {i}, {name!r}"
            )
    return names


def _metadata(inputs, outputs, labelled, kind):
    """The ModelMetadata flatbuffer."""
    builder = flatbuffers.Builder()

    def text(string):
        return builder.CreateString(string)

    def vector(offsets):
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    def table(fields, offsets, file_type=None):
        builder.StartObject(fields)
        for field, offset in offsets.items():
            builder.PrependUOffsetTRelativeSlot(field, offset, 0)
        if file_type is not None:
            builder.PrependInt8Slot(_FILE_TYPE, file_type, 0)
        return builder.EndObject()

    def tensor(name):
        fields = {_TENSOR_NAME: text(name)}
        if name == labelled:
            file = {
                _FILE_NAME: text(LABEL_FILE),
                _FILE_DESCRIPTION: text("Names of the classes, in their order."),
            }
            fields[_TENSOR_FILES] = vector([table(5, file, kind)])
        return table(7, fields)

    parts = {
        _SUBGRAPH_INPUTS: vector([tensor(name) for name in inputs]),
        _SUBGRAPH_OUTPUTS: vector([tensor(name) for name in outputs]),
    }
    root = {
        _MODEL_SUBGRAPHS: vector([table(10, parts)]),
        _MODEL_PARSER_VERSION: text("1.0.0"),
    }
    builder.Finish(table(8, root), file_identifier=b"M001")
    return builder.Output()
