"""Files that are packed again are as the schema has them."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_hybrid.export import to_tflite
from keras_hybrid.export.flatbuffer import pack


def starts(content):
    """Where in the file the bytes of each buffer begin."""
    content = np.frombuffer(content, "uint8")
    file = schema.Model.GetRootAs(content)
    buffers = [file.Buffers(i) for i in range(file.BuffersLength())]
    data = [b.DataAsNumpy() for b in buffers if not b.DataIsNone()]
    return [bytes_.ctypes.data - content.ctypes.data for bytes_ in data]


@pytest.mark.parametrize("quantization", [None, "float16", "dynamic"])
@pytest.mark.parametrize("labels", [None, ["a", "bee", "c", "d", "e"]])
def test_bytes_begin_at_multiples_of_16(tmp_path, quantization, labels):
    image = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(7, 3, activation="relu")(image)
    x = keras.layers.Dense(5)(keras.layers.Flatten()(x))
    path = tmp_path / "s.tflite"
    to_tflite(keras.Model(image, x), path, quantization=quantization, labels=labels)
    found = starts(path.read_bytes())
    assert len(found) > 5
    assert {start % 16 for start in found} == {0}


def test_packs_what_it_was_given():
    model = schema.ModelT()
    model.version, model.buffers = 3, [schema.BufferT() for _ in range(4)]
    for i, buffer in enumerate(model.buffers[1:], start=1):
        buffer.data = np.arange(i * 7, dtype="uint8")
    content = pack(model)
    assert content[4:8] == b"TFL3"
    again = schema.ModelT.InitFromPackedBuf(content, 0)
    assert again.buffers[0].data is None
    for i, buffer in enumerate(again.buffers[1:], start=1):
        np.testing.assert_array_equal(buffer.data, np.arange(i * 7))
    assert {start % 16 for start in starts(content)} == {0}
