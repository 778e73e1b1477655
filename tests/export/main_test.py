"""`python -m keras_hybrid.export`."""

import keras
import numpy as np
import pytest
from PIL import Image

import tiny
from keras_hybrid.export.__main__ import main


@pytest.fixture
def saved(tmp_path):
    body = tiny.student(size=32)
    image = keras.Input((32, 32, 3))
    student = keras.Model(image, body(keras.layers.Rescaling(1 / 127.5, -1)(image)))
    student.save(tmp_path / "student.keras")
    return tmp_path / "student.keras"


def test_int8_from_photographs_with_labels(saved, tmp_path, capsys):
    folder = tmp_path / "photographs" / "any"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(5):
        pixels = rng.integers(0, 256, (40, 60, 3)).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{i}.png")
    labels = tmp_path / "labels.txt"
    labels.write_text("ant\nbee\ncow\ndog\n")
    out = tmp_path / "student.tflite"
    flags = f"--calibration_data={tmp_path / 'photographs'}", f"--labels={labels}"
    main([str(saved), str(out), "--quantization=int8", *flags])
    assert b"bee" in out.read_bytes()
    assert str(out) in capsys.readouterr().out


def test_a_saved_model(saved, tmp_path):
    main([str(saved), str(tmp_path / "student")])
    assert (tmp_path / "student" / "saved_model.pb").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["missing.keras", "out.tflite"],
            "MODEL must be a file that exists. Received: MODEL=missing",
        ),
        (["student.keras", "out", "--quantization=int8"], "OUT must end in .tflite"),
        (["student.keras", "out.tflite", "--quantization=int8"], "`calibration_data`"),
        (["student.keras", "out.tflite", "--labels=none.txt"], "none.txt"),
        (["labels.txt", "out.tflite"], "MODEL must be a model saved as .keras"),
    ],
)
def test_a_mistake_is_one_line(saved, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.txt").write_text("ant\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before
