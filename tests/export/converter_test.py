"""TensorFlow's converter, and what becomes of its crashes."""

import os

import keras
import numpy as np
import pytest

from keras_hybrid.export import converter, to_tflite

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype("float32")


def network(layer):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(image)
    x = keras.layers.GlobalAveragePooling2D()(layer(x))
    return keras.Model(image, keras.layers.Dense(3)(x))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        # Its softplus of 300 is infinite, and so is the range: a segmentation fault.
        (keras.layers.Activation("mish"), "can quantize to int8.*crashes.*dynamic"),
        (keras.ops.erf, "has built in.* Erf$"),
    ],
)
def test_what_int8_cannot_do_is_one_line(tmp_path, layer, message):
    with pytest.raises(ValueError, match=message) as error:
        to_tflite(
            network(layer),
            tmp_path / "new" / "s.tflite",
            quantization="int8",
            calibration_data=IMAGES,
        )
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", r"crashes \(SIGSEGV\)"),
        ("import os; os.abort()", r"crashes \(SIGABRT\)"),
        ("raise SystemExit('out of\\nmemory')", r"crashes \(exit code 1, memory\)"),
    ],
)
def test_the_end_of_its_process_is_named(tmp_path, monkeypatch, program, message):
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(converter, "__file__", os.fspath(tmp_path / "program.py"))
    with pytest.raises(ValueError, match=message) as error:
        converter.convert_to_int8(tmp_path, IMAGES[:, None])
    assert "\n" not in str(error.value)


def test_a_process_without_stderr(capfd):
    """As one that was started with `2>&-`."""
    kept = os.dup(2)
    os.close(2)
    try:
        with converter.quiet_stderr():
            pass
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_students_that_keras_quantized(tmp_path, mode):
    student = network(keras.layers.ReLU())
    with pytest.warns(UserWarning, match="`quantize`"):  # of layers without weights
        student.quantize(mode)
    with pytest.raises(ValueError, match=f"before `quantize`.*quantized to {mode}$"):
        to_tflite(student, tmp_path / "s.tflite")
