"""Interrupted and uninterrupted training end at the same weights."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import tiny
from keras_hybrid import HybridTransfer


def dropout_student():
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(image)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(4, 3, strides=2, padding="same")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(image, layers.Dense(4, activation="softmax")(x))


OPTIONS = {
    "defaults": {},
    "options": {
        "switch_points": (2,),
        "balance": 0.3,
        "student_batch_norm": "all",
        "teacher_preprocessing": layers.Rescaling(2.0, name="times_two"),
        "track_paths": True,
    },
    "pairs": {"switch_points": [("out1", "activation_a"), ("out2", "activation_b")]},
}


def build(options):
    student = dropout_student()
    if "pairs" in str(options.get("switch_points", "")) or isinstance(
        options.get("switch_points"), list
    ):
        student.layers[2].name = "activation_a"
        student.layers[3].name = "activation_b"
    return HybridTransfer(tiny.teacher(), student, **options)


@pytest.mark.parametrize("case", OPTIONS)
def test_save_load_continue_equals_uninterrupted(case, tmp_path):
    images, labels = tiny.batch(16)
    model = build(OPTIONS[case])
    model.compile(
        keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    fit = {"batch_size": 4, "shuffle": False, "verbose": 0}
    model.fit(images, labels, **fit)  # 4 steps: in the middle of an accumulation
    model.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")

    assert loaded.balance.__dict__ == model.balance.__dict__
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


def test_loaded_model_predicts(tmp_path):
    model = build({})
    model.save(tmp_path / "run.keras")
    images, _ = tiny.batch()
    loaded = keras.models.load_model(tmp_path / "run.keras")
    for path, other in zip(model.paths, loaded.paths):
        np.testing.assert_array_equal(path(images), other(images))


def test_student_loads_without_the_package(tmp_path):
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
