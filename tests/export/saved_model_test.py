"""`to_saved_model`: inference alone, checked after loading it back."""

import pathlib
import resource
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_hybrid.export import saved_model, to_saved_model

# Keras 3.15 reads weights by `np.array(variable)`, which NumPy 2 finds outdated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)

IMAGES = np.random.default_rng(7).integers(0, 256, (3, 16, 24, 3)).astype("float32")


def small_student(dtype="float32", seed=0, size=(16, 24)):
    """Two named outputs, BatchNorm and Dropout, a few channels."""
    image = keras.Input((*size, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1, dtype=dtype)(image)
    x = keras.layers.Conv2D(4, 3, strides=2, dtype=dtype)(x)
    x = keras.layers.BatchNormalization(dtype=dtype)(x)
    mask = keras.layers.Conv2D(3, 1, dtype=dtype)(keras.layers.ReLU(dtype=dtype)(x))
    x = keras.layers.GlobalAveragePooling2D(dtype=dtype)(mask)
    score = keras.layers.Dense(5, dtype=dtype)(keras.layers.Dropout(0.5, dtype=dtype)(x))
    student = keras.Model(image, {"mask": mask, "score": score})
    rng = np.random.default_rng(seed)
    for weight in student.weights:
        weight.assign(rng.uniform(0.1, 1, weight.shape))
    return student


def test_serves_any_batch_as_keras_does(tmp_path):
    student = small_student()
    report = to_saved_model(student, tmp_path / "student")
    loaded = tf.saved_model.load(report.filepath)
    expected = student(IMAGES, training=False)
    received = loaded.serve(IMAGES)
    named = loaded.signatures["serving_default"](image=tf.constant(IMAGES))
    for outputs in (received, named):
        assert sorted(outputs) == ["mask", "score"]
        np.testing.assert_allclose(outputs["mask"], expected["mask"], atol=1e-5)
        np.testing.assert_allclose(outputs["score"], expected["score"], atol=1e-5)
    assert report.input_signature == {"image": ((None, 16, 24, 3), "float32")}
    assert report.output_signature == {
        "mask": ((None, 7, 11, 3), "float32"),
        "score": ((None, 5), "float32"),
    }
    assert report.max_abs_error < 1e-5
    assert report.agreement == 1.0
    assert report.ops == ()
    files = [f for f in pathlib.Path(report.filepath).rglob("*") if f.is_file()]
    assert report.size_bytes == sum(f.stat().st_size for f in files)


def test_holds_the_inference_pass_alone(tmp_path):
    student = small_student()
    student.compile("adam", "mse")
    targets = {"mask": np.zeros((3, 7, 11, 3)), "score": np.zeros((3, 5))}
    student.fit(IMAGES, targets, verbose=0)
    transfer = types.SimpleNamespace(student=student, teacher=small_student())
    report = to_saved_model(transfer, tmp_path / "student")
    names = dict(tf.train.list_variables(f"{report.filepath}/variables/variables"))
    stored = sum(int(np.prod(s)) for n, s in names.items() if "VARIABLE_VALUE" in n)
    assert stored == student.count_params()


def test_any_image_size(tmp_path):
    report = to_saved_model(small_student(size=(None, None)), tmp_path / "student")
    assert report.input_signature == {"image": ((None, None, None, 3), "float32")}
    odd = IMAGES[:1, :13, :9]
    loaded = tf.saved_model.load(report.filepath)
    mask = loaded.serve(odd)["mask"]
    assert mask.shape == (1, 6, 4, 3)


def test_mixed_precision_is_exported_in_float32(tmp_path):
    mixed = small_student("mixed_bfloat16")
    report = to_saved_model(mixed, tmp_path / "student")
    loaded = tf.saved_model.load(report.filepath)
    received = loaded.serve(IMAGES)
    expected = small_student()(IMAGES, training=False)
    assert received["mask"].dtype == tf.float32
    np.testing.assert_allclose(received["mask"], expected["mask"], atol=1e-5)
    assert mixed.layers[2].compute_dtype == "bfloat16"


def test_a_wrong_file_is_not_handed_over(tmp_path, monkeypatch):
    filepath = tmp_path / "new" / "student"
    write, other = saved_model.write_saved_model, small_student(seed=1)
    monkeypatch.setattr(
        saved_model,
        "write_saved_model",
        lambda student, directory, shape: write(other, directory, shape),
    )
    with pytest.raises(RuntimeError, match="must reproduce the model"):
        to_saved_model(small_student(), filepath)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [8, None])
def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path, size):
    image = keras.Input((size, size, 3))
    student = keras.Model(image, keras.layers.Conv2D(4, 3)(image))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left on device.*new/student"):
            to_saved_model(student, tmp_path / "new" / "student")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_replaces_a_saved_model_and_nothing_else(tmp_path):
    filepath = tmp_path / "student"
    to_saved_model(small_student(), filepath)
    (filepath / "left_over").touch()
    to_saved_model(small_student(seed=1), filepath)
    assert list(tmp_path.iterdir()) == [filepath]
    assert not (filepath / "left_over").exists()
    expected = small_student(seed=1)(IMAGES, training=False)["score"]
    loaded = tf.saved_model.load(filepath)
    received = loaded.serve(IMAGES)["score"]
    np.testing.assert_allclose(received, expected, atol=1e-5)
    (tmp_path / "precious.txt").write_text("keep me")
    for taken in (tmp_path, tmp_path / "precious.txt"):
        with pytest.raises(ValueError, match="`filepath` must be a new path"):
            to_saved_model(small_student(), taken)
    assert (tmp_path / "precious.txt").read_text() == "keep me"


@pytest.mark.parametrize("name", ["seed[1]", "a*", "a?", "a\\b"])
def test_a_path_that_tensorflow_takes_for_a_pattern_is_rejected(name, tmp_path):
    with pytest.raises(ValueError, match="`filepath` must be a path without"):
        to_saved_model(small_student(), tmp_path / name / "student")
    assert list(tmp_path.iterdir()) == []


def test_is_quiet_and_changes_nothing(tmp_path, capfd):
    student = small_student("mixed_float16")
    student.compile("sgd", "mse")
    weights = [w.copy() for w in student.get_weights()]
    attributes = dict(vars(student))
    to_saved_model(student, tmp_path / "student")
    assert capfd.readouterr() == ("", "")
    assert all(map(np.array_equal, weights, student.get_weights()))
    assert dict(vars(student)) == attributes
