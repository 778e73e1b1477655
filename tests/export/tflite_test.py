"""`to_tflite`: the file computes what Keras computes, or there is no file."""

import errno
import os
import pathlib
import tempfile
import types
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

import tiny
from keras_hybrid.data import streets
from keras_hybrid.export import tflite, to_tflite
from keras_hybrid.models.segmentation.deeplab_v2 import with_label_map

# Keras 3.15 reads weights by `np.array(variable)`, which NumPy 2 finds outdated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)

IMAGE = np.random.default_rng(7).integers(0, 256, (1, 16, 24, 3)).astype("float32")


def small_student(outputs="single", dtype="float32", seed=0):
    """A few channels, 16x24 images, BatchNorm with statistics that matter."""
    image = keras.Input((16, 24, 3), name="photo")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1, dtype=dtype)(image)
    x = keras.layers.Conv2D(4, 3, strides=2, use_bias=False, dtype=dtype)(x)
    x = keras.layers.BatchNormalization(dtype=dtype)(x)
    x = keras.layers.ReLU(6.0, dtype=dtype)(x)
    mask = keras.layers.Conv2D(3, 1, dtype=dtype)(x)
    x = keras.layers.Dropout(0.5, dtype=dtype)(keras.layers.Flatten(dtype=dtype)(x))
    score = keras.layers.Dense(5, activation="softmax", dtype=dtype)(x)
    student = keras.Model(
        image,
        {
            "single": score,
            "list": [mask, score],
            "dict": {"score": score, "mask": mask, "both": [mask, score]},
        }[outputs],
    )
    return with_weights(student, seed)


def with_weights(model, seed=0):
    """Seeded weights of a trained network's size; unit-gain, so that none fades out."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        fan_in = max(1, np.prod(weight.shape[:-1]))
        if "depthwise" in weight.path:
            fan_in = 9
        value = rng.normal(0, np.sqrt(2 / fan_in), weight.shape)
        if weight.name in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 1.5, weight.shape)
        weight.assign(value)
    return model


def run(filepath, image=IMAGE):
    return Interpreter(model_path=str(filepath)).get_signature_runner()(image=image)


def test_file_runs_as_keras_does(tmp_path):
    student = small_student()
    report = to_tflite(student, tmp_path / "student.tflite")
    received = run(tmp_path / "student.tflite")
    expected = keras.ops.convert_to_numpy(student(IMAGE, training=False))
    np.testing.assert_allclose(received["output_0"], expected, atol=1e-5)
    assert report.filepath == str(tmp_path / "student.tflite")
    assert report.size_bytes == os.path.getsize(report.filepath)
    assert report.input_signature == {"image": ((1, 16, 24, 3), "float32")}
    assert report.output_signature == {"output_0": ((1, 5), "float32")}
    assert report.max_abs_error < 1e-5
    assert report.agreement == 1.0
    assert {"CONV_2D", "FULLY_CONNECTED", "SOFTMAX"} <= set(report.ops)
    assert list(report.ops) == sorted(report.ops)
    assert "student.tflite" in str(report)
    assert "\n" not in str(report)


def test_mobilenet(tmp_path):
    image = keras.Input((32, 32, 3))
    base = keras.applications.MobileNet((32, 32, 3), alpha=0.25, weights=None, classes=10)
    student = keras.Model(image, base(keras.layers.Rescaling(1 / 127.5, -1)(image)))
    with_weights(student)
    report = to_tflite(student, tmp_path / "student.tflite")
    assert report.max_abs_error < 1e-4
    assert report.agreement == 1.0
    # BatchNorm is folded, weights are in the file, four bytes each.
    assert "RSQRT" not in report.ops
    assert 0.9 * 4 * student.count_params() < report.size_bytes


@pytest.mark.parametrize(
    ("outputs", "names"),
    [("list", ["output_0", "output_1"]), ("dict", ["both_0", "both_1", "mask", "score"])],
)
def test_several_outputs_keep_their_names(tmp_path, outputs, names):
    student = small_student(outputs)
    report = to_tflite(student, tmp_path / "student.tflite")
    received = run(report.filepath)
    assert sorted(received) == list(report.output_signature) == names
    mask, score = names[-2:]
    expected = student(IMAGE, training=False)
    if outputs == "dict":
        expected = [expected["mask"], expected["score"]]
    assert report.output_signature[mask][0] == (1, 7, 11, 3)
    np.testing.assert_allclose(received[mask], expected[0], atol=1e-5)
    np.testing.assert_allclose(received[score], expected[1], atol=1e-5)


class Doubled(keras.layers.Layer):
    """As users write them: not registered, and here without `get_config`."""

    def __init__(self, factor=2, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return self.factor * x


class Scaled(Doubled):
    def __init__(self, factor):
        super().__init__(factor)


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_boolean_outputs(tmp_path, quantization):
    image = keras.Input((16, 24, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    bright = keras.layers.Conv2D(1, 3, kernel_initializer="ones")(x) > 13.5
    report = to_tflite(
        keras.Model(image, bright),
        tmp_path / "student.tflite",
        quantization=quantization,
        calibration_data=np.random.default_rng(0).integers(0, 256, (8, 16, 24, 3)),
    )
    assert 0.8 < report.agreement <= 1
    assert report.max_abs_error == 0  # of floats, of which there are none
    assert report.output_signature["output_0"][1] == "bool"


def test_outputs_whose_joined_names_are_equal_are_rejected(tmp_path):
    image = keras.Input((16, 24, 3))
    one, other = (keras.layers.Conv2D(2, 3)(image) for _ in range(2))
    student = keras.Model(image, {"a_0": one, "a": [other]})
    with pytest.raises(ValueError, match="names differ .* Received: a_0, a_0"):
        to_tflite(student, tmp_path / "student.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_of_temporary_files_is_named(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tflite, "write_saved_model", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        to_tflite(small_student(), tmp_path / "student.tflite")
    assert error.value.filename == tempfile.gettempdir()


def test_mixed_precision_with_custom_layers(tmp_path):
    def network(layer, dtype):
        image = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(4, 3, dtype=dtype)(image)
        return with_weights(keras.Model(image, layer(x)))

    report = to_tflite(
        network(Doubled(dtype="mixed_float16"), "mixed_float16"), tmp_path / "s.tflite"
    )
    image = IMAGE[:, :8, :8] / 255
    expected = network(Doubled(), "float32")(image)
    np.testing.assert_allclose(
        run(report.filepath, image)["output_0"], expected, atol=1e-5
    )
    with pytest.raises(ValueError, match="copy in float32.*`get_config`") as error:
        to_tflite(network(Scaled(3), "mixed_float16"), tmp_path / "other.tflite")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "other.tflite").exists()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_exported_in_float32(tmp_path, policy):
    mixed = small_student("dict", policy)
    report = to_tflite(mixed, tmp_path / "student.tflite")
    # The same weights in a float32 network: half precision would differ by about 1e-3.
    expected = small_student("dict")(IMAGE, training=False)
    received = run(report.filepath)
    np.testing.assert_allclose(received["mask"], expected["mask"], atol=1e-5)
    dtypes = {
        np.dtype(tensor["dtype"]).name
        for tensor in Interpreter(report.filepath).get_tensor_details()
    }
    assert dtypes <= {"float32", "int32"}
    assert mixed.layers[2].compute_dtype == policy.removeprefix("mixed_")


def test_takes_the_student_of_a_transfer(tmp_path):
    transfer = types.SimpleNamespace(student=small_student())
    report = to_tflite(transfer, tmp_path / "student.tflite")
    assert report.output_signature == {"output_0": ((1, 5), "float32")}


def test_student_with_backbone_and_head(tmp_path):
    student = with_weights(BackboneAndHead(dtype="mixed_float16"))
    report = to_tflite(student, tmp_path / "student.tflite")
    assert report.output_signature == {"logits": ((1, 8, 12, 4), "float32")}
    expected = with_weights(BackboneAndHead())(IMAGE)["logits"]  # the same, in float32
    # Raw 0 to 255 go in, and logits of some hundreds come out.
    np.testing.assert_allclose(run(report.filepath)["logits"], expected, atol=1e-2)


@keras.saving.register_keras_serializable("tflite_test")
class BackboneAndHead(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        image = keras.Input((16, 24, 3))
        x = keras.layers.Conv2D(2, 3, strides=2, padding="same", dtype=self.dtype_policy)
        self.backbone = keras.Model(image, x(image))
        self.head = keras.layers.Conv2D(4, 1, dtype=self.dtype_policy)
        self.build((None, 16, 24, 3))

    def build(self, input_shape):
        self.head.build(self.backbone.output.shape)
        self.built = True

    def call(self, images):
        return {"logits": self.head(self.backbone(images))}


def test_any_image_size_needs_the_line_from_the_error(tmp_path):
    free = keras.Sequential(
        [keras.Input((None, None, 3)), keras.layers.Conv2D(2, 3), keras.layers.ReLU()]
    )
    with pytest.raises(ValueError, match=r"fixed size.*\(None, None, None, 3\)"):
        to_tflite(free, tmp_path / "student.tflite")
    image = keras.Input((16, 24, 3))
    report = to_tflite(keras.Model(image, free(image)), tmp_path / "student.tflite")
    assert report.output_signature == {"output_0": ((1, 14, 22, 2), "float32")}


def test_refuses_operators_that_tflite_lacks(tmp_path):
    image = keras.Input((4, 4, 3))
    # TensorFlow's own Tan and Sinh could be linked in (Flex), Digamma not even that.
    for function, names in (
        (lambda x: tf.math.tan(x) + tf.math.sinh(x), "Sinh, Tan"),
        (tf.math.digamma, "Digamma"),
    ):
        student = keras.Model(image, keras.layers.Lambda(function)(image))
        with pytest.raises(ValueError, match=f"has built in.* {names}$") as error:
            to_tflite(student, tmp_path / "new" / "student.tflite")
        assert "\n" not in str(error.value)
        assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_is_not_handed_over(tmp_path, monkeypatch):
    filepath = tmp_path / "student.tflite"
    filepath.write_bytes(b"the previous one")
    convert = tflite._convert
    other = small_student(seed=1)
    monkeypatch.setattr(tflite, "_convert", lambda student, *args: convert(other, *args))
    with pytest.raises(
        RuntimeError, match="must reproduce the model.*'output_0' differs"
    ):
        to_tflite(small_student(), filepath)
    assert list(tmp_path.iterdir()) == [filepath]
    assert filepath.read_bytes() == b"the previous one"


@pytest.fixture(scope="module")
def trained():
    """A student that knows three things of a street, and 200 crops it has not seen."""
    keras.utils.set_random_seed(0)
    images, labels = streets.crops(1200, seed=0)
    known = np.isin(
        labels, [streets.CLASSES.index(n) for n in ("bus", "building", "tree")]
    )
    body = tiny.student(size=32, channels=(16, 32, 64), classes=len(streets.CLASSES))
    image = keras.Input((32, 32, 3))
    student = keras.Model(image, body(keras.layers.Rescaling(1 / 127.5, -1)(image)))
    student.compile(
        keras.optimizers.Adam(3e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = student.fit(images[known], labels[known], epochs=20, verbose=0)
    assert history.history["accuracy"][-1] > 0.9
    images, labels = streets.crops(550, seed=1)
    known = np.isin(labels, np.unique(labels)[3:6])
    return student, images[known][:200].astype("float32")


@pytest.mark.parametrize("quantization", [None, "float16", "dynamic", "int8"])
def test_quantized_files_of_a_trained_student(tmp_path, trained, quantization):
    student, images = trained
    report = to_tflite(
        student,
        tmp_path / "student.tflite",
        quantization=quantization,
        calibration_data=images[:100],
    )
    runner = Interpreter(report.filepath).get_signature_runner()
    detail = runner.get_output_details()["output_0"]
    received = []
    for image in images[100:]:
        image = image.astype(runner.get_input_details()["image"]["dtype"])
        output = runner(image=image[None])["output_0"][0].astype("float64")
        if detail["dtype"] == np.uint8:
            scale, zero_point = detail["quantization"]
            output = scale * (output - zero_point)
        received.append(output)
    expected = student.predict(images[100:], verbose=0)
    agreement = np.mean(np.argmax(received, -1) == expected.argmax(-1))
    assert agreement >= {None: 1.0, "float16": 1.0}.get(quantization, 0.97)
    if quantization in (None, "float16"):
        atol = {None: 1e-5, "float16": 1e-3}[quantization]
        np.testing.assert_allclose(received, expected, atol=atol)
    bytes_per_weight = {None: 4, "float16": 2.2}.get(quantization, 1)
    assert report.size_bytes < bytes_per_weight * student.count_params() + 20_000


def test_the_report_says_what_a_phone_will_see(tmp_path):
    student = small_student("dict")  # "mask" has values below 0, and 77 pixels
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 24, 3)).astype("float32")
    report = to_tflite(
        student, tmp_path / "s.tflite", quantization="int8", calibration_data=images
    )
    details = Interpreter(report.filepath).get_signature_runner().get_output_details()
    errors, same = [], []
    for image in images[:, None]:
        expected = student(image, training=False)
        received = run(report.filepath, image.astype("uint8"))
        for name in ("mask", "score"):
            scale, zero_point = details[name]["quantization"]
            values = scale * (received[name].astype("float32") - zero_point)
            errors.append(np.abs(values - expected[name]).max())
            same.append(values.argmax(-1) == np.argmax(expected[name], -1))
    assert report.max_abs_error == pytest.approx(max(errors), rel=1e-4)
    # The file has "both", which is the two once more.
    assert report.agreement == pytest.approx(np.concatenate(same, None).mean())
    assert report.agreement < 1


def test_int8_takes_the_bytes_of_a_camera(tmp_path, trained):
    student, images = trained
    pale = 0.5 * images[:100] + 60  # neither black nor white in it
    report = to_tflite(
        student,
        tmp_path / "student.tflite",
        quantization="int8",
        calibration_data=pale,
    )
    assert report.input_signature == {"image": ((1, 32, 32, 3), "uint8")}
    assert report.output_signature == {"output_0": ((1, 8), "uint8")}
    runner = Interpreter(report.filepath).get_signature_runner()
    assert runner.get_input_details()["image"]["quantization"] == (1.0, 0)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: list(x),
        lambda x: tf.data.Dataset.from_tensor_slices((x, np.zeros(len(x)))).batch(8),
    ],
)
def test_calibration_data_as_users_have_them(tmp_path, wrap):
    images = np.repeat(IMAGE, 10, axis=0) * np.linspace(0, 1, 10)[:, None, None, None]
    report = to_tflite(
        small_student(), tmp_path / "student.tflite", calibration_data=wrap(images)
    )
    assert report.max_abs_error < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantization": "int4"}, "`quantization` must be one of.*'int4'"),
        ({"quantization": "int8"}, "`calibration_data` must be given"),
        ({"calibration_data": []}, "`calibration_data` must hold images"),
        (
            {"calibration_data": np.zeros((2, 8, 8, 3))},
            r"\(16, 24, 3\).*shape \(8, 8, 3\)",
        ),
        ({"labels": ["a", "b"]}, "2 labels for outputs of shape"),
        ({"labels": "abcde"}, "`labels` must be a list"),
        ({"labels": [0, 1, 2, 3, 4]}, "`labels` must be a list"),
        ({"labels": ["a", "b\nc", "d", "e", "f"]}, r"line breaks.*label 1, 'b\\nc'"),
        ({"labels": ["a", "b", "c", "d", "e\u2028f"]}, "line breaks.*label 4"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        to_tflite(small_student(), tmp_path / "student.tflite", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_labels_are_in_the_metadata(tmp_path):
    names = ["ant", "bee", "cow", "dög", "elk"]
    report = to_tflite(small_student(), tmp_path / "student.tflite", labels=names)
    with zipfile.ZipFile(report.filepath) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode().splitlines() == names
    content = pathlib.Path(report.filepath).read_bytes()
    file = schema.Model.GetRootAs(content)
    entries = {
        file.Metadata(i).Name(): file.Buffers(file.Metadata(i).Buffer()).DataAsNumpy()
        for i in range(file.MetadataLength())
    }
    metadata = entries[b"TFLITE_METADATA"].tobytes()
    assert metadata[4:8] == b"M001"
    assert b"labels.txt" in metadata
    expected = small_student()(IMAGE, training=False)
    np.testing.assert_allclose(run(report.filepath)["output_0"], expected, atol=1e-5)


@pytest.mark.parametrize(
    "labels",
    [
        ["ant", "bee", "", "dog", "elk", ""],
        ["\ufeffant\n", "bee\n", "\n", "dog\n", "elk\n", "\n", "\n"],
        ["ant\r\n", "bee\r\n", "\r\n", "dog\r\n", "elk"],
        ("ant", "bee", "", "dog", "elk"),
        np.array(["ant", "bee", "", "dog", "elk"]),
        (name for name in ["ant", "bee", "", "dog", "elk"]),
    ],
)
def test_labels_as_files_of_them_are_read(tmp_path, labels):
    report = to_tflite(small_student(), tmp_path / "student.tflite", labels=labels)
    with zipfile.ZipFile(report.filepath) as archive:
        assert archive.read("labels.txt") == b"ant\nbee\n\ndog\nelk\n"


def test_labels_of_integers_name_their_values(tmp_path):
    image = keras.Input((8, 8, 3))
    scores = keras.layers.Conv2D(3, 1)(image)
    network = with_label_map(keras.Model(image, scores))
    names = ["ant", "bee", "cow"]  # not as many as the last axis of (1, 8, 8) is long
    report = to_tflite(network, tmp_path / "student.tflite", labels=names)
    with zipfile.ZipFile(report.filepath) as archive:
        assert archive.read("labels.txt").decode().splitlines() == names


def test_replaces_a_file_and_creates_parents(tmp_path):
    filepath = tmp_path / "a" / "b" / "student.tflite"
    first = to_tflite(small_student(), filepath)
    second = to_tflite(small_student("list"), filepath)
    assert second.size_bytes == filepath.stat().st_size != first.size_bytes
    assert list(filepath.parent.iterdir()) == [filepath]


def test_is_quiet_and_changes_nothing(tmp_path, monkeypatch, capfd):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.chdir(scratch)
    student = small_student(dtype="mixed_float16")
    student.compile("sgd", "mse")
    weights = [w.copy() for w in student.get_weights()]
    numpy_state = np.random.get_state()[1].copy()
    attributes = dict(vars(student))
    to_tflite(student, tmp_path / "student.tflite")
    assert capfd.readouterr() == ("", "")
    assert list(scratch.iterdir()) == []
    assert all(map(np.array_equal, weights, student.get_weights()))
    assert [layer.dtype_policy.name for layer in student.layers[1:]] == [
        "mixed_float16"
    ] * (len(student.layers) - 1)
    assert dict(vars(student)) == attributes
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert keras.config.dtype_policy().name == "float32"


def test_nan_in_the_model_is_named(tmp_path):
    student = small_student()
    student.layers[-1].bias.assign([np.nan] * 5)
    with pytest.raises(ValueError, match="finite outputs.*'output_0'"):
        to_tflite(student, tmp_path / "student.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["student.keras", "student", "folder.tflite"])
def test_filepath_must_be_a_tflite_file(tmp_path, name):
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(ValueError, match="`filepath` must be a file"):
        to_tflite(small_student(), tmp_path / name)


def test_model_must_be_a_built_image_network(tmp_path):
    filepath = pathlib.Path(tmp_path, "student.tflite")
    with pytest.raises(TypeError, match="`model` must be a `keras.Model`"):
        to_tflite("student.keras", filepath)
    with pytest.raises(ValueError, match="must be built"):
        to_tflite(keras.Sequential([keras.layers.Dense(2)]), filepath)
    vector = keras.Input((3,))
    with pytest.raises(ValueError, match="one input, images of shape"):
        to_tflite(keras.Model(vector, keras.layers.Dense(2)(vector)), filepath)
    pair = [keras.Input((4, 4, 3)), keras.Input((4, 4, 3))]
    with pytest.raises(ValueError, match="one input, images of shape"):
        to_tflite(keras.Model(pair, keras.layers.Add()(pair)), filepath)
    batch = keras.Input(batch_shape=(8, 4, 4, 3))
    with pytest.raises(ValueError, match="single images of a fixed size"):
        to_tflite(keras.Model(batch, keras.layers.ReLU()(batch)), filepath)
