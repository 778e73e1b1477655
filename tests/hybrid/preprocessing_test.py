"""`teacher_preprocessing`: the normalizations that teachers were trained with."""

import types

import keras
import numpy as np
import pytest

import tiny
from keras_hybrid import HybridTransfer
from keras_hybrid.hybrid import preprocessing

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CLIP = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def images(size=(5, 7)):
    return np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype("float32")


SCHEMES = {
    "tf": lambda x: x / 127.5 - 1,
    "torch": lambda x: (x / 255 - MEAN) / STD,
    "clip": lambda x: (x / 255 - CLIP[0]) / CLIP[1],
    "bgr": lambda x: x[..., ::-1],
    "caffe": lambda x: (x - [123.68, 116.779, 103.939])[..., ::-1],
}


def test_inside_changes_nothing_but_the_size():
    assert preprocessing.function_of(preprocessing.get("inside")) is None
    function = preprocessing.function_of("inside", (5, 7))
    np.testing.assert_array_equal(function(images()), images())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes(scheme):
    function = preprocessing.function_of(preprocessing.get(scheme))
    np.testing.assert_allclose(
        function(images()), SCHEMES[scheme](images()), rtol=1e-5, atol=1e-4
    )


def processor(**attributes):
    """Like an image processor of zeromodels or transformers, which are callable."""

    class Processor(types.SimpleNamespace):
        def __call__(self, image):
            raise AssertionError("It takes one photograph, not a batch of tensors.")

    return Processor(**attributes)


PROCESSORS = {
    "zeromodels": processor(
        image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5), rescale_factor=1 / 255
    ),
    "timm": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "input_size": (3, 9, 9)},
}


@pytest.mark.parametrize("zoo", PROCESSORS)
def test_the_processor_of_a_zoo_gives_mean_and_standard_deviation(zoo, tmp_path):
    model = HybridTransfer(
        tiny.teacher(), tiny.student(), teacher_preprocessing=PROCESSORS[zoo]
    )
    seen = model.paths[0].inputs(images())["teacher"]
    np.testing.assert_allclose(seen, images() / 127.5 - 1, atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = loaded.paths[0].inputs(images())["teacher"]
    np.testing.assert_array_equal(again, seen)


@pytest.mark.parametrize("bad", ["imagenet", {"mean": 0.5}, 3])
def test_anything_else_is_rejected(bad):
    with pytest.raises((TypeError, ValueError), match="`teacher_preprocessing` must be"):
        preprocessing.get(bad)


def test_small_images_are_not_aliased_when_reduced():
    function = preprocessing.function_of(lambda x: x, (2, 2))
    checks = np.indices((16, 16)).sum(axis=0)[None, :, :, None] % 2 * np.ones(3)
    reduced = function(checks.astype("float32"))
    np.testing.assert_allclose(reduced, 0.5, atol=0.02)
