"""`python -m keras_hybrid.export`."""

import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

import keras_hybrid
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


def test_help_prints_the_flags():
    done = typed("--help")
    assert done.returncode == 0, done.stderr
    flags = "--quantization", "--image_size", "--calibration_data", "--labels"
    assert all(flag in done.stdout for flag in flags)


def test_as_a_user_types_it(saved, tmp_path):
    done = typed(
        "student.keras", "student.tflite", "--quantization=float16", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("student.tflite: 0.0")
    assert (tmp_path / "student.tflite").is_file()


def typed(*arguments, cwd=None):
    """The command in a process of its own, which finds the package where this one did."""
    root = os.path.dirname(keras_hybrid.__path__[0])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "keras_hybrid.export", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("channels", [1, 4])
def test_students_of_grey_and_rgba_photographs(tmp_path, channels):
    save_network(tmp_path / "student.keras", (16, 24, channels))
    save_photographs(tmp_path / "photographs")
    out = tmp_path / "student.tflite"
    folder = f"--calibration_data={tmp_path / 'photographs'}"
    main([str(tmp_path / "student.keras"), str(out), "--quantization=dynamic", folder])
    runner = Interpreter(str(out)).get_signature_runner()
    assert list(runner.get_input_details()["image"]["shape"]) == [1, 16, 24, channels]


def test_a_student_of_any_size_is_given_one(tmp_path):
    save_network(tmp_path / "student.keras", (None, None, 3))
    save_photographs(tmp_path / "photographs")
    saved, out = str(tmp_path / "student.keras"), str(tmp_path / "student.tflite")
    folder = f"--calibration_data={tmp_path / 'photographs'}"
    for flags in ([], [folder], [folder, "--quantization=int8"]):
        with pytest.raises(SystemExit) as error:
            main([saved, out, *flags])
        assert "fixed size" in str(error.value)
        assert "--image_size=HEIGHTxWIDTH" in str(error.value)
        assert "\n" not in str(error.value)
    main([saved, out, folder, "--image_size=16x24"])
    runner = Interpreter(out).get_signature_runner()
    assert list(runner.get_input_details()["image"]["shape"]) == [1, 16, 24, 3]


@pytest.mark.parametrize("size", ["16", "16,24", "0x8", "-1x8", "16x24x3", "32x33"])
def test_a_wrong_image_size(saved, tmp_path, size):
    with pytest.raises(SystemExit, match="--image_size must be HEIGHTxWIDTH") as error:
        main([str(saved), str(tmp_path / "out.tflite"), f"--image_size={size}"])
    assert f"--image_size={size}" in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"ant\nbee\ncow\nd\xc3\xb6g",
        b"ant\r\nbee\r\ncow\r\nd\xc3\xb6g\r\n",
        b"\xef\xbb\xbfant\nbee\ncow\nd\xc3\xb6g\n",
        b"ant\nbee\ncow\nd\xc3\xb6g\n\n\n",
    ],
)
def test_files_of_labels(saved, tmp_path, content):
    (tmp_path / "labels.txt").write_bytes(content)
    out = tmp_path / "student.tflite"
    main([str(saved), str(out), f"--labels={tmp_path / 'labels.txt'}"])
    with zipfile.ZipFile(out) as archive:
        assert archive.read("labels.txt") == b"ant\nbee\ncow\nd\xc3\xb6g\n"


def test_labels_in_another_encoding(saved, tmp_path):
    (tmp_path / "labels.txt").write_bytes("ant\nbee\ncow\ndög\n".encode("latin-1"))
    with pytest.raises(SystemExit, match=r"in UTF-8.*labels\.txt"):
        main([str(saved), str(tmp_path / "o.tflite"), f"--labels={tmp_path}/labels.txt"])


def save_network(path, shape):
    image = keras.Input(shape)
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(image, keras.layers.Dense(4)(x)).save(path)


def save_photographs(folder):
    """Two that can be read, a broken one and what macOS leaves beside one."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        pixels = rng.integers(0, 256, (40, 60, 3)).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{i}.JPG", "JPEG")
    (folder / "broken.jpg").write_bytes((folder / "0.JPG").read_bytes()[:100])
    (folder / "._0.jpg").write_bytes(b"\x00\x05\x16\x07Mac OS X")
