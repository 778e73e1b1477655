"""Segmenters that are shipped with the class of each pixel for output."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from keras_hybrid.data import streets
from keras_hybrid.export import agreement, tflite, to_saved_model, to_tflite
from keras_hybrid.models.segmentation.deeplab_v2 import deeplab_v2, with_label_map


def network():
    image = x = keras.Input((32, 64, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(x)
    for i, channels in enumerate((16, 32)):
        x = keras.layers.Conv2D(
            channels, 3, strides=2, padding="same", use_bias=False, name=f"conv{i}"
        )(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    return deeplab_v2(
        keras.Model(image, x), len(streets.LABELS), output_stride=4, rates=(1, 2, 4, 8)
    )


@pytest.fixture(scope="module")
def trained():
    """A segmenter of rendered streets, and 60 of them that it has not seen."""
    keras.utils.set_random_seed(0)
    scenes = [streets.scene(i, size=(32, 64)) for i in range(300)]
    images = np.stack([scene.image for scene in scenes]).astype("float32")
    labels = np.stack([scene.label_map for scene in scenes])
    student = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    student.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    history = student.fit(images[:240], labels[:240], 16, epochs=10, verbose=0)
    assert history.history["accuracy"][-1] > 0.75
    return with_label_map(student), images[:100], images[240:]


LEAST = {None: 0.999, "float16": 0.999, "dynamic": 0.97, "int8": 0.97}


@pytest.mark.parametrize("quantization", LEAST)
def test_pixels_agree_with_keras(tmp_path, trained, quantization):
    student, seen, images = trained
    report = to_tflite(
        student, tmp_path / "s.tflite", quantization=quantization, calibration_data=seen
    )
    runner = Interpreter(report.filepath).get_signature_runner()
    dtype = runner.get_input_details()["image"]["dtype"]
    received = [runner(image=x[None].astype(dtype))["output_0"][0] for x in images]
    expected = student.predict(images, verbose=0)
    assert received[0].dtype == np.uint8
    assert np.mean(received == expected) >= LEAST[quantization]
    assert report.output_signature == {"output_0": ((1, 32, 64), "uint8")}
    assert report.agreement == pytest.approx(np.mean(received == expected), abs=0.01)
    assert report.max_abs_error == 0  # no output is a float


def test_saved_model(tmp_path, trained):
    student, _, _ = trained
    report = to_saved_model(student, tmp_path / "saved_model")
    assert report.agreement == 1
    assert report.output_signature["output_0"][1] == "uint8"


def test_a_wrong_file_is_not_handed_over(tmp_path, trained, monkeypatch):
    student, seen, _ = trained
    convert = tflite._convert
    other = with_label_map(network())
    monkeypatch.setattr(tflite, "_convert", lambda student, *args: convert(other, *args))
    with pytest.raises(RuntimeError, match=r"'output_0' differs in [0-9.]+% of its"):
        to_tflite(student, tmp_path / "s.tflite", calibration_data=seen)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("different", "refused"), [(1, False), (3, True)])
def test_float32_may_differ_in_one_value_of_a_thousand(trained, different, refused):
    student, _, images = trained

    def run(image):
        labels = np.array(student(image))
        labels.reshape(-1)[:different] += 1
        return {"output_0": labels}

    batches = images[:1, None, ...]
    if refused:
        with pytest.raises(RuntimeError, match="differs in 0.1% of its values"):
            agreement.require_agreement(student, run, batches)
    else:
        report = agreement.require_agreement(student, run, batches)
        assert report.same_argmax == 1 - different / (32 * 64)
