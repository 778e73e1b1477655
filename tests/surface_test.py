"""The `keras.Model` interface of `HybridTransfer` and `FeatureTransfer`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import detectors
import tiny
from keras_hybrid import HybridTransfer
from keras_hybrid.baselines import METHODS, FeatureTransfer

CROSS_ENTROPY = "sparse_categorical_crossentropy"


def classifier(kind=HybridTransfer, **options):
    student = tiny.student(kernel_regularizer=keras.regularizers.L2(0.1))
    model = kind(tiny.teacher(), student, **options)
    model.compile("sgd", loss=CROSS_ENTROPY, metrics=["accuracy"])
    return model, *tiny.batch(8)


def baseline():
    return classifier(FeatureTransfer, method="overhaul")


def preprocessed():
    return classifier(teacher_preprocessing=layers.Resizing(48, 48))


def detector():
    student = detectors.small((8,), anchor_heights=(24,))
    model = HybridTransfer(tiny.teacher(size=None), student)
    model.compile("sgd")
    return model, *detectors.people(2)


KINDS = [classifier, baseline, preprocessed]


def assert_same(received, expected):
    keras.tree.assert_same_structure(received, expected)
    for a, b in zip(keras.tree.flatten(received), keras.tree.flatten(expected)):
        np.testing.assert_array_equal(np.array(a), np.array(b))


def assert_predicts_as_its_student(model, images):
    student = model.student
    assert_same(model.predict(images, verbose=0), student.predict(images, verbose=0))
    assert_same(model.predict_on_batch(images), student.predict_on_batch(images))
    assert_same(model.predict_step((images,)), student.predict_step((images,)))
    assert_same(model(images), student(images))


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_equal_the_students_before_and_after_training(kind, tmp_path):
    model, images, truth = kind()
    assert_predicts_as_its_student(model, images)
    model.fit(images, truth, verbose=0)
    model.save(tmp_path / "run.keras")
    assert_predicts_as_its_student(
        keras.saving.load_model(tmp_path / "run.keras"), images
    )


def test_a_hybrid_detector_predicts_detections_only():
    model, images, _ = detector()
    assert_predicts_as_its_student(model, images)
    assert set(model.predict(images, verbose=0)) == {
        "boxes",
        "classes",
        "count",
        "scores",
    }


@pytest.mark.parametrize("kind", [*KINDS, detector])
def test_summary_lists_the_student_and_all_parameters(kind):
    model, *_ = kind()
    texts = []
    for options in (
        {},
        {"expand_nested": True, "show_trainable": True, "line_length": 120},
        {"layer_range": (model.teacher.name, model.student.name)},
    ):
        model.summary(print_fn=texts.append, **options)
    for text in texts:
        assert model.student.name in text
        assert f"{model.count_params():,}" in text
    if kind is preprocessed:  # the first adapter of student-first, from 4 channels to 6
        assert "(None, None, None, 6)" in texts[0]


def test_inputs_and_outputs_are_those_of_the_student():
    model, *_ = classifier()
    for name in ("input", "output", "inputs", "outputs", "input_shape", "output_shape"):
        received = keras.tree.flatten(getattr(model, name))
        expected = keras.tree.flatten(getattr(model.student, name))
        assert [a is b or a == b for a, b in zip(received, expected)]
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == model.compute_output_shape((None, 32, 32, 3))
    assert model.output_names == ["classifier"]


@pytest.mark.parametrize("kind", [classifier, baseline])
def test_exports_contain_the_student_alone(kind, tmp_path):
    model, images, _ = kind()
    expected = model.student.predict(images, verbose=0)
    model.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(saved.serve(images), expected, atol=1e-6)

    path = tmp_path / "model.tflite"
    model.export(path, format="litert", verbose=False)
    interpreter = Interpreter(str(path))
    (image,), (output,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    interpreter.resize_tensor_input(image["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(image["index"], images)
    interpreter.invoke()
    np.testing.assert_allclose(
        interpreter.get_tensor(output["index"]), expected, atol=1e-5
    )
    # The teacher has twice as many parameters, so it cannot be in the file.
    assert path.stat().st_size < 4 * model.student.count_params() + 6000


@pytest.mark.parametrize("form", ["onnx", "openvino", "torch", "paper"])
def test_unsupported_export_formats_fail_as_for_the_student(form, tmp_path):
    model, *_ = classifier()
    errors = []
    for network in (model.student, model):
        with pytest.raises(Exception, match=".") as error:
            network.export(tmp_path / "file", format=form, verbose=False)
        errors.append((error.type, str(error.value)))
    assert errors[0] == errors[1]


def test_a_hybrid_detector_exports_its_detections(tmp_path):
    model, images, _ = detector()
    with pytest.raises(ValueError, match="`input_signature` must give the height"):
        model.export(tmp_path / "saved", verbose=False)
    signature = [keras.InputSpec(shape=(1, *images.shape[1:]))]
    model.export(tmp_path / "saved", input_signature=signature, verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved")
    received = saved.serve(images[:1])
    for name, expected in model.predict(images[:1], verbose=0).items():
        np.testing.assert_allclose(received[name], expected, atol=1e-3, err_msg=name)


def test_copies_from_configs_predict_the_same():
    model, images, _ = classifier()
    for copy in (
        HybridTransfer.from_config(model.get_config()),
        keras.models.model_from_json(model.to_json()),
        keras.models.clone_model(model),
    ):
        copy.set_weights(model.get_weights())
        assert_same(copy.predict(images, verbose=0), model.predict(images, verbose=0))
    other, *_ = baseline()
    other.compile_from_config(model.get_compile_config())
    assert other.get_compile_config() == model.get_compile_config()


def test_weights_are_saved_and_loaded(tmp_path):
    model, images, truth = preprocessed()
    model.fit(images, truth, verbose=0)
    model.save_weights(tmp_path / "run.weights.h5")
    other, *_ = preprocessed()
    other.load_weights(tmp_path / "run.weights.h5")
    for a, b in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_quantize_changes_the_student_alone():
    model, images, _ = classifier()
    teacher = [weight.numpy() for weight in model.teacher.weights]
    with pytest.warns(UserWarning, match="does not have a `quantize` method"):
        model.quantize("int8")
    assert model.student.get_layer("classifier").quantization_mode == "int8"
    assert_same(
        model.predict(images, verbose=0), model.student.predict(images, verbose=0)
    )
    for weight, value in zip(model.teacher.weights, teacher, strict=True):
        np.testing.assert_array_equal(weight, value)


class Batches(keras.utils.PyDataset):
    def __init__(self):
        super().__init__()

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return tiny.batch(4, seed=index)


def test_fit_accepts_every_kind_of_data(tmp_path):
    model, images, truth = classifier()
    data = tf.data.Dataset.from_tensor_slices((images, truth)).batch(4)
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.EarlyStopping("val_loss", restore_best_weights=True),
    ]
    quiet = {"verbose": 0}
    model.fit(images, truth, validation_split=0.5, callbacks=callbacks, **quiet)
    model.fit(Batches(), validation_data=data, **quiet)
    generator = (tiny.batch(4) for _ in range(2))
    model.fit(generator, steps_per_epoch=2, shuffle=False, **quiet)
    history = model.fit(data, validation_data=Batches(), shuffle=False, **quiet).history
    assert set(history) == {
        *("loss", "student_loss", "student_first_loss", "teacher_first_loss", "balance"),
        *("accuracy", "val_loss", "val_accuracy"),
    }
    loaded = keras.saving.load_model(tmp_path / "1.keras")
    assert loaded.optimizer.iterations == 1


@pytest.mark.parametrize("method", ["hybrid", *sorted(METHODS.keys() - {"kd"})])
def test_jit_compile_unless_a_map_is_resized(method):
    """XLA has no gradient of TensorFlow's bilinear resize."""
    kind = {}
    if method != "hybrid":
        kind = {"kind": FeatureTransfer, "method": method}
    settings = {"loss": CROSS_ENTROPY, "jit_compile": True}
    model, images, truth = classifier(**kind)
    model.compile("sgd", **settings)
    assert model.jit_compile
    logs = model.train_on_batch(images, truth, return_dict=True)
    assert np.isfinite(logs["loss"])
    model, *_ = classifier(**kind, teacher_preprocessing=layers.Resizing(48, 48))
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        model.compile("sgd", **settings)
    assert not model.jit_compile
