"""`python -m keras_hybrid.export`."""

import os
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

import keras_hybrid
import tiny
from detectors import FasterRCNN, backbone
from keras_hybrid.export import saved_model
from keras_hybrid.export.__main__ import main
from keras_hybrid.models.detection.faster_rcnn import with_detections
from keras_hybrid.models.segmentation.deeplab_v2 import (
    at_size,
    deeplab_v2,
    with_label_map,
)

IMAGE = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3)).astype("float32")


@pytest.fixture
def saved(tmp_path):
    body = tiny.student(size=32)
    image = keras.Input((32, 32, 3))
    student = keras.Model(image, body(keras.layers.Rescaling(1 / 127.5, -1)(image)))
    student.save(tmp_path / "student.keras")
    return tmp_path / "student.keras"


def test_int8_from_photographs_with_labels(saved, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "photographs" / "any"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(5):
        pixels = rng.integers(0, 256, (40, 60, 3)).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "labels.txt").write_text("ant\nbee\ncow\ndog\n")
    out = tmp_path / "student.tflite"
    flags = "--calibration_data=~/photographs", "--labels=~/labels.txt"
    main([str(saved), str(out), "--quantization=int8", *flags])
    assert b"bee" in out.read_bytes()
    assert str(out) in capsys.readouterr().out


def test_a_slash_after_the_name_of_a_tflite_file(saved, tmp_path):
    main([str(saved), f"{tmp_path}/student.tflite/", "--quantization=float16"])
    assert (tmp_path / "student.tflite").is_file()


def test_a_saved_model(saved, tmp_path):
    main([str(saved), str(tmp_path / "student")])
    assert (tmp_path / "student" / "saved_model.pb").is_file()


@pytest.fixture
def detector(tmp_path):
    """As the citypersons recipe saves it, with its names of the classes."""
    student = FasterRCNN(
        backbone(scale=1 / 255),
        feature_strides=(4, 8),
        anchor_heights=(24, 96),
        channels=4,
        units=4,
    )
    student.save(tmp_path / "detector.keras")
    (tmp_path / "labels.txt").write_text("background\nperson\n")
    return student


@pytest.fixture
def segmenter(tmp_path):
    """As the cityscapes recipe saves it."""
    student = deeplab_v2(backbone(scale=1 / 255), 3, output_stride=8, rates=(1, 2))
    student.save(tmp_path / "segmenter.keras")
    (tmp_path / "labels.txt").write_text("road\nperson\nsky\n")
    return student


def test_a_detector_as_a_user_types_it(detector, tmp_path):
    flags = "--height=32", "--width=48", "--labels=labels.txt"
    done = typed("detector.keras", "detector.tflite", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("detector.tflite: 0.0")
    received = Interpreter(str(tmp_path / "detector.tflite")).get_signature_runner()(
        image=IMAGE
    )
    expected = with_detections(detector, 32, 48)(IMAGE)
    assert received.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, atol=1e-2, err_msg=name)
    assert stored_labels(tmp_path / "detector.tflite") == b"background\nperson\n"


@pytest.mark.parametrize("is_map", [True, False])
def test_a_segmenter(segmenter, tmp_path, monkeypatch, is_map):
    monkeypatch.chdir(tmp_path)
    flags = ["--image_size=32x48", "--labels=labels.txt", *["--label_map"] * is_map]
    main(["segmenter.keras", "segmenter.tflite", *flags])
    received = Interpreter("segmenter.tflite").get_signature_runner()(image=IMAGE)
    expected = at_size(segmenter, 32, 48)
    if is_map:
        expected = with_label_map(expected)
    assert received["output_0"].dtype == ("uint8" if is_map else "float32")
    np.testing.assert_allclose(received["output_0"], expected(IMAGE), atol=1e-4)
    assert stored_labels("segmenter.tflite") == b"road\nperson\nsky\n"


def test_saved_models_of_one_size(detector, segmenter, tmp_path):
    size = "--height=32", "--width=48"
    main([str(tmp_path / "detector.keras"), str(tmp_path / "detector"), *size])
    loaded = tf.saved_model.load(tmp_path / "detector")
    found = loaded.serve(IMAGE)
    expected = with_detections(detector, 32, 48)(IMAGE)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-3)
    flags = *size, "--label_map"
    main([str(tmp_path / "segmenter.keras"), str(tmp_path / "segmenter"), *flags])
    loaded = tf.saved_model.load(tmp_path / "segmenter")
    found = loaded.serve(IMAGE)
    expected = with_label_map(at_size(segmenter, 32, 48))(IMAGE)
    np.testing.assert_array_equal(found["output_0"], expected)


_SIZE = ["--height=32", "--width=48"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["detector.keras", "out"], "--height and --width must be given for a detector"),
        (["detector.keras", "out.tflite"], "--height and --width must be given for a"),
        (["detector.keras", "out", "--height=32", "--width=44"], "multiples of 8"),
        (
            ["detector.keras", "out", *_SIZE, "--label_map"],
            "--label_map is for a segment",
        ),
        (
            [
                *("detector.keras", "out.tflite", *_SIZE),
                *("--quantization=int8", "--calibration_data=photographs"),
            ],
            '`quantization` must be None, "float16" or "dynamic" for a detector',
        ),
        (["segmenter.keras", "out"], "in a shell, with --height and --width. Received"),
        (["segmenter.keras", "out.tflite", "--label_map"], "with --height and --width"),
        (["segmenter.keras", "out", "--height=30", "--width=48"], "map of 32 x 48 pixel"),
    ],
)
def test_mistakes_with_detectors_and_segmenters(
    detector, segmenter, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    save_photographs(tmp_path / "photographs")
    assert_refused(arguments, message)


def test_the_student_of_a_transfer(detector, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras_hybrid.HybridTransfer(tiny.teacher(size=None), detector).save("hybrid.keras")
    assert_refused(["hybrid.keras", "out"], "must be given for a detector")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["missing.keras", "out.tflite"],
            "MODEL must be a file that exists and can be read. Received: MODEL=missing",
        ),
        (["student.keras", "out", "--quantization=int8"], "OUT must end in .tflite"),
        (["student.keras", "student.onnx"], "OUT must end in .tflite, or be a directory"),
        (
            ["student.keras", "out.tflite", "--quantization=int8"],
            "--calibration_data=FO",
        ),
        (["student.keras", "out.tflite", "--labels=none.txt"], "--labels must be a text"),
        (["labels.txt", "out.tflite"], "MODEL must be a model saved as .keras"),
        (["student.keras", "out", "--label_map"], "--label_map is for a segmenter"),
    ],
)
def test_a_mistake_is_one_line(saved, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.txt").write_text("ant\n")
    assert_refused(arguments, message)


def test_ctrl_c_ends_an_export_without_traceback(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(saved_model, "require_agreement", interrupted)
    with pytest.raises(SystemExit) as end:
        main(["student.keras", "new/student"])
    assert end.value.code == 130
    assert capsys.readouterr().err.endswith("Interrupted. Nothing was written.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["student.keras"]


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_code_in_a_file_is_not_run(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    image = keras.Input((8, 8, 3))
    keras.Model(image, keras.layers.Lambda(lambda x: 2 * x)(image)).save(f"s{suffix}")
    assert_refused([f"s{suffix}", "out"], "MODEL must be a model saved as .keras")


def assert_refused(arguments, message):
    """The process ends with one line, and nothing is written to the working directory."""
    before = sorted(pathlib.Path().rglob("*"))
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(pathlib.Path().rglob("*")) == before


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
        assert "--height and --width" in str(error.value)
        assert "\n" not in str(error.value)
    main([saved, out, folder, "--height=16", "--width=24"])
    runner = Interpreter(out).get_signature_runner()
    assert list(runner.get_input_details()["image"]["shape"]) == [1, 16, 24, 3]


@pytest.mark.parametrize(
    "flags",
    [
        *(["--image_size=16"], ["--image_size=16,24"], ["--image_size=0x8"]),
        *(["--image_size=-1x8"], ["--image_size=16x24x3"], ["--image_size="]),
        *(["--height=16"], ["--width=24"], ["--height=16", "--width=0"]),
        *(["--height=16", "--width=2.5"], ["--height=16x24"]),
        *(["--image_size=32x32", "--height=32"], ["--height=", "--width=32"]),
    ],
)
def test_a_wrong_image_size(saved, tmp_path, flags):
    with pytest.raises(SystemExit, match="--height and --width must be given") as error:
        main([str(saved), str(tmp_path / "out.tflite"), *flags])
    assert all(flag in str(error.value) for flag in flags)


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
    assert stored_labels(out) == b"ant\nbee\ncow\nd\xc3\xb6g\n"


def test_labels_in_another_encoding(saved, tmp_path):
    (tmp_path / "labels.txt").write_bytes("ant\nbee\ncow\ndög\n".encode("latin-1"))
    with pytest.raises(SystemExit, match=r"in UTF-8.*labels\.txt"):
        main([str(saved), str(tmp_path / "o.tflite"), f"--labels={tmp_path}/labels.txt"])


def stored_labels(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("labels.txt")


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
