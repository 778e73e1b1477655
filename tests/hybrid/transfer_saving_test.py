"""Saving and loading: a resumed run ends at the same weights as an uninterrupted one."""

import functools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import detectors
import tiny
from keras_hybrid import DynamicBalance, FixedBalance, HybridTransfer
from keras_hybrid.baselines import METHODS, FeatureTransfer
from keras_hybrid.hybrid.adapters import Adapter
from runs import PATH


def dropout_student():
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(image)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(4, 3, strides=2, padding="same")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(image, layers.Dense(4, activation="softmax")(x))


@keras.saving.register_keras_serializable("tests")
class WithNorm(Adapter):
    """An adapter with batch normalization and dropout."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm = layers.BatchNormalization(name="norm")
        self.dropout = layers.Dropout(0.5, name="dropout")

    def call(self, x, size):
        return self.dropout(self.norm(super().call(x, size)))


OPTIONS = {
    "defaults": {},
    "adapter": {"adapter": WithNorm},
    "adapter, one path": {"adapter": WithNorm, "paths_per_step": 1},
    "options": {
        "switch_points": (2,),
        "balance": 0.3,
        "student_batch_norm": "all",
        "teacher_preprocessing": layers.Rescaling(2.0, name="times_two"),
        "track_paths": True,
    },
    "one path": {"paths_per_step": 1},
    "plus": {"plus": "fitnet"},
    "pairs": {"switch_points": [("out1", "activation_a"), ("out2", "activation_b")]},
}


def build(options):
    student = dropout_student()
    if "plus" in options:
        options = {**options, "plus": METHODS[options["plus"]](0.5)}
    if "pairs" in str(options.get("switch_points", "")) or isinstance(
        options.get("switch_points"), list
    ):
        student.layers[2].name = "activation_a"
        student.layers[3].name = "activation_b"
    return HybridTransfer(tiny.teacher(), student, **options)


@pytest.mark.parametrize("case", OPTIONS)
def test_training_resumed_from_a_file_equals_uninterrupted_training(case, tmp_path):
    images, labels = tiny.batch(16)
    model = build(OPTIONS[case])
    model.compile(
        keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    fit = {"batch_size": 4, "shuffle": False, "verbose": 0}
    model.fit(images, labels, **fit)  # 4 steps end in the middle of an accumulation
    model.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")

    assert loaded.balance.__dict__ == model.balance.__dict__
    assert loaded.adapter is model.adapter
    assert [p.owners for p in loaded.paths] == [p.owners for p in model.paths]
    uninterrupted = model.fit(images, labels, epochs=2, **fit).history
    continued = loaded.fit(images, labels, epochs=2, **fit).history
    assert continued == uninterrupted
    for name in ("variables",):
        for a, b in zip(getattr(model, name), getattr(loaded, name), strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    slots = zip(model.optimizer.variables, loaded.optimizer.variables, strict=True)
    for a, b in slots:
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    assert loaded.trainable_variables[0].path == model.trainable_variables[0].path
    assert not loaded.teacher.trainable


def test_a_loaded_model_predicts_the_same_on_all_paths(tmp_path):
    model = build({})
    model.save(tmp_path / "run.keras")
    images, _ = tiny.batch()
    loaded = keras.models.load_model(tmp_path / "run.keras")
    for path, other in zip(model.paths, loaded.paths):
        np.testing.assert_array_equal(path(images), other(images))


def test_a_saved_student_loads_without_keras_hybrid(tmp_path):
    model = build({})
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    images, labels = tiny.batch()
    model.fit(images, labels, verbose=0)
    model.student.save(tmp_path / "student.keras")
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "expected.npy", model.student(images))
    script = f"""
import sys
sys.modules["keras_hybrid"] = None  # any import of it fails
import keras, numpy as np
student = keras.models.load_model(r"{tmp_path}/student.keras")
received = student(np.load(r"{tmp_path}/images.npy"))
np.testing.assert_allclose(received, np.load(r"{tmp_path}/expected.npy"), rtol=1e-6)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


class Scaled(layers.Conv2D):
    """A custom layer that is not registered with Keras."""


def unregistered_network(size):
    x = image = keras.Input((32, 32, 3))
    for width in size:
        x = Scaled(width, 3, strides=2, padding="same", activation="tanh")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(4, activation="softmax")(x))


def halved(images):
    return images / 2


class Halved(layers.Rescaling):
    pass


class Constant(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.mean(y_pred, axis=-1)


CUSTOM = {"Scaled": Scaled, "Halved": Halved, "halved": halved, "Constant": Constant}


def loaded_in_a_scope(path):
    with keras.saving.custom_object_scope(CUSTOM):
        return keras.saving.load_model(path)


@pytest.mark.parametrize("preprocessing", [halved, Halved(0.5)])
@pytest.mark.parametrize("kind", [HybridTransfer, FeatureTransfer])
def test_custom_objects_apply_to_all_parts(kind, preprocessing, tmp_path):
    options = {"method": "at"} if kind is FeatureTransfer else {}
    networks = unregistered_network((6, 8)), unregistered_network((4, 6))
    model = kind(*networks, teacher_preprocessing=preprocessing, **options)
    compile_args = {"loss": Constant(), "run_eagerly": True}  # one step of each: no graph
    model.compile("sgd", **compile_args)
    images, labels = tiny.batch()
    model.save(tmp_path / "run.keras")
    copies = [
        keras.saving.load_model(tmp_path / "run.keras", custom_objects=CUSTOM),
        loaded_in_a_scope(tmp_path / "run.keras"),
    ]
    with keras.saving.custom_object_scope(CUSTOM):
        copies.append(keras.models.clone_model(model))
        copies.append(kind.from_config(model.get_config()))
    copies.append(kind.from_config(model.get_config(), custom_objects=CUSTOM))
    for copy in copies:
        copy.set_weights(model.get_weights())
        copy.compile("sgd", **compile_args)
    expected, *logs = [
        m.train_on_batch(images, labels, return_dict=True) for m in (model, *copies)
    ]
    assert all(log == expected for log in logs)
    with pytest.raises(TypeError, match="Could not locate class 'Scaled'"):
        keras.saving.load_model(tmp_path / "run.keras")


@keras.saving.register_keras_serializable("tests")
def doubled(images):
    return images * 2


FUNCTIONS = {
    "registered": doubled,
    "keras": keras.applications.resnet50.preprocess_input,
    "op": keras.ops.abs,
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_known_preprocessing_functions_are_restored(case, tmp_path):
    model = build({"teacher_preprocessing": FUNCTIONS[case]})
    model.save(tmp_path / "run.keras")
    loaded = keras.saving.load_model(tmp_path / "run.keras")
    assert loaded.teacher_preprocessing is FUNCTIONS[case]


def test_a_lambda_is_restored_only_without_safe_mode(tmp_path):
    model = build({"teacher_preprocessing": lambda images: images / 2})
    with pytest.warns(UserWarning, match="pass `safe_mode=False`"):
        model.save(tmp_path / "run.keras")
    with pytest.raises(ValueError, match="safe_mode=False"):
        keras.saving.load_model(tmp_path / "run.keras")
    loaded = keras.saving.load_model(tmp_path / "run.keras", safe_mode=False)
    images, _ = tiny.batch()
    np.testing.assert_array_equal(loaded.paths[1](images), model.paths[1](images))


def test_a_preprocessing_function_without_a_name_is_not_saved(tmp_path):
    model = build({"teacher_preprocessing": functools.partial(keras.ops.multiply, 2.0)})
    with pytest.raises(TypeError, match="a function with a name .* `custom_objects`"):
        model.save(tmp_path / "run.keras")


def unbiased(channels, resizes, **kwargs):
    adapter = WithNorm(channels, resizes, **kwargs)
    adapter.convolution.use_bias = False
    return adapter


def test_a_function_that_creates_adapters_is_restored(tmp_path):
    model = build({"adapter": unbiased})
    assert all(len(adapter.convolution.weights) == 1 for adapter in model.adapters)
    model.save(tmp_path / "run.keras")
    custom = {"unbiased": unbiased}
    loaded = keras.saving.load_model(tmp_path / "run.keras", custom_objects=custom)
    assert loaded.adapter is unbiased
    images, _ = tiny.batch()
    np.testing.assert_array_equal(loaded.paths[1](images), model.paths[1](images))


def test_an_adapter_function_without_a_name_is_not_saved(tmp_path):
    model = build({"adapter": functools.partial(WithNorm, trainable=True)})
    with pytest.raises(TypeError, match="`adapter` must be .* a name to be saved"):
        model.save(tmp_path / "run.keras")


class Damped(DynamicBalance):
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, *losses):
        return self.factor * super().__call__(*losses)

    def get_config(self):
        return {"factor": self.factor}


@keras.saving.register_keras_serializable("tests")
class Halfway(FixedBalance):
    def __call__(self, *losses):
        return super().__call__(*losses) / 2


@pytest.mark.parametrize("balance", [Damped(0.25), Halfway(0.5), FixedBalance(0.5)])
def test_balances_are_restored(balance, tmp_path):
    model = build({"balance": balance})
    model.save(tmp_path / "run.keras")
    loaded = keras.saving.load_model(
        tmp_path / "run.keras", custom_objects={"Damped": Damped}
    )
    assert type(loaded.balance) is type(balance)
    assert vars(loaded.balance) == vars(balance)


@keras.saving.register_keras_serializable("tests")
class WithTemperature(HybridTransfer):
    def compile(self, optimizer, loss, temperature, **kwargs):
        super().compile(optimizer, loss, **kwargs)
        self.temperature = temperature


def test_a_compile_with_arguments_of_its_own_is_left_to_the_user(tmp_path):
    model = WithTemperature(tiny.teacher(), tiny.student())
    model.compile("sgd", "sparse_categorical_crossentropy", 3.0)
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="not compiled: `compile` of WithTemperature"):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not hasattr(loaded, "optimizer")
    images, _ = tiny.batch()
    np.testing.assert_allclose(loaded(images), model(images), atol=1e-6)


def test_a_compiled_but_untrained_teacher_is_saved_uncompiled(tmp_path):
    model = build({})
    for network in (model.teacher, model.student):
        network.compile("adam", loss="mse")
    model.save(tmp_path / "run.keras")
    assert not keras.saving.load_model(tmp_path / "run.keras").teacher.compiled


def test_files_load_after_importing_keras_hybrid_alone(tmp_path):
    """The classes in the files need not be imported by name."""
    detectors.small((8,), anchor_heights=(24,)).save(tmp_path / "FasterRCNN.keras")
    FeatureTransfer(tiny.teacher(), tiny.student(), "fitnet").save(
        tmp_path / "FeatureTransfer.keras"
    )
    script = f"""
import keras, keras_hybrid
for name in ("FasterRCNN", "FeatureTransfer"):
    model = keras.saving.load_model(rf"{tmp_path}/{{name}}.keras")
    assert type(model).__name__ == name
keras.saving.deserialize_keras_object(
    {{"module": "", "class_name": "MeanIoU", "config": {{}},
      "registered_name": "keras_hybrid>MeanIoU"}}
)
"""
    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        cwd=tmp_path,
        env={**os.environ, **PATH},
    )
