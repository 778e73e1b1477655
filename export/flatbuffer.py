"""Serializes the objects of TFLite's schema to a file."""

import typing

import flatbuffers
import numpy as np

if typing.TYPE_CHECKING:
    from ai_edge_litert import schema_py_generated as schema

_ALIGNMENT = 16  # `force_align` of `Buffer.data` in TFLite's schema.fbs


def pack(model: "schema.ModelT") -> bytes:
    """Returns the bytes of the file that holds a model.

    The bytes of each buffer begin at a multiple of 16, as the schema requires: kernels
    and delegates read weights in place, with vector instructions. TensorFlow's converter
    packs in Python as well, but without this alignment.
    """
    builder = _Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class _Builder(flatbuffers.Builder):
    """Aligns bytes; the schema's generated code does not implement `force_align`."""

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        if x.dtype == np.uint8:
            self.Prep(_ALIGNMENT, x.nbytes)
        return super().CreateNumpyVector(x)
