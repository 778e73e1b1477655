"""A TFLite file from the objects of its schema."""

import flatbuffers
import numpy as np

_ALIGNMENT = 16  # `force_align` of `Buffer.data` in TFLite's schema.fbs


def pack(model):
    """Returns the bytes of the file that holds a `schema.ModelT`.

    The bytes of each buffer begin at a multiple of 16, as the schema demands: kernels and
    delegates read weights in place, by vectors. TensorFlow's converter ends by packing in
    Python, too, without that.
    """
    builder = _Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class _Builder(flatbuffers.Builder):
    """Aligns bytes, for which the generated code of the schema has no `force_align`."""

    def CreateNumpyVector(self, x):
        if x.dtype == np.uint8:
            self.Prep(_ALIGNMENT, x.nbytes)
        return super().CreateNumpyVector(x)
