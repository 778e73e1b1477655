import functools
import inspect
import re
import subprocess
import sys
import urllib.error

import keras
import numpy as np
import pytest
from keras.src.utils import file_utils

from keras_hybrid import applications

pytestmark = [
    pytest.mark.filterwarnings("error"),
    # TensorFlow's variables under NumPy 2, whenever Keras saves.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

NAMES = [n for n, value in vars(keras.applications).items() if inspect.isfunction(value)]
# The smallest network of each preprocessing scheme, for tests that build it.
SMALL = {"caffe": "VGG16", "tf": "MobileNet", "torch": "DenseNet121"}


def load_small(name, **kwargs):
    """`load` with random weights at the smallest size and width."""
    if name.startswith("MobileNet"):
        kwargs.setdefault("alpha", 0.25)
    return applications.load(name, weights=None, **kwargs)


def images(size=32, batch=2):
    return np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)


def assert_equal_in_scale(found, expected):
    """Compare relative to the largest value: random weights give outputs around 1e-17."""
    largest = np.abs(expected).max()
    assert np.ptp(expected) > 0.1 * largest > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * largest)


def module_of(name):
    module = getattr(keras.applications, name).__module__.rpartition(".")[2]
    return getattr(keras.applications, module)


def without_body(monkeypatch, name):
    """Replace Keras's network by its input, so that `load` returns the preprocessing.

    Returns:
        A list with the keyword arguments of every call of the network.
    """
    calls = []

    @functools.wraps(getattr(keras.applications, name))
    def network(**kwargs):
        calls.append(kwargs)
        x = kwargs["input_tensor"]
        return keras.Model(keras.utils.get_source_inputs(x), x)

    monkeypatch.setattr(keras.applications, name, network)
    return calls


def fail_to_download(*args):
    raise urllib.error.URLError("Name or service not known")


def test_preprocessing_equals_preprocess_input_of_keras(monkeypatch):
    assert len(NAMES) >= 38
    for name in NAMES:
        without_body(monkeypatch, name)
        model = applications.load(name, weights=None, input_shape=(32, 32, 3))
        expected = module_of(name).preprocess_input(images().astype("float32"))
        found = model(images())
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4, err_msg=name)


def test_preprocessing_of_one_pixel_by_hand(monkeypatch):
    for name in SMALL.values():
        without_body(monkeypatch, name)
    pixel = np.array([[[[255, 0, 51]]]])  # R, G, B

    def scaled(name):
        return np.ravel(applications.load(name, weights=None)(pixel))

    # B - 103.939, G - 116.779, R - 123.68
    np.testing.assert_allclose(scaled("VGG16"), [-52.939, -116.779, 131.32], atol=1e-4)
    # 255/127.5 - 1, 0/127.5 - 1, 51/127.5 - 1
    np.testing.assert_allclose(scaled("MobileNet"), [1, -1, -0.6], atol=1e-6)
    # (1 - 0.485)/0.229, (0 - 0.456)/0.224, (0.2 - 0.406)/0.225
    expected = [2.24891, -2.03571, -0.91556]
    np.testing.assert_allclose(scaled("DenseNet121"), expected, atol=1e-5)


def test_default_input_size_of_a_network_with_a_classifier(monkeypatch):
    for name in NAMES:
        network = getattr(keras.applications, name)
        calls = without_body(monkeypatch, name)
        shape = applications.load(name, weights=None, classes=7).input_shape[1:]
        assert calls[0]["include_top"], name
        assert calls[0]["classes"] == 7, name
        if name.startswith("MobileNetV3"):  # takes any size; published for 224
            assert shape == (224, 224, 3)
            continue
        # Keras names the expected size when it rejects another for ImageNet weights.
        with pytest.raises(ValueError, match=re.escape(f"should be {shape}")):
            network(weights="imagenet", input_shape=(97, 97, 3))


def test_nasnet_needs_a_fixed_size(monkeypatch):
    for name, size in (("NASNetMobile", 224), ("NASNetLarge", 331)):
        without_body(monkeypatch, name)
        assert applications.load(name).input_shape == (None, size, size, 3)
        with pytest.raises(ValueError, match=f"must not contain None for {name}"):
            applications.load(name, input_shape=(None, None, 3))


@pytest.mark.parametrize("name", SMALL.values())
def test_loaded_network_equals_preprocess_input_and_the_keras_network(name, shallow):
    model = load_small(name)
    kwargs = {"alpha": 0.25} if name == "MobileNet" else {}
    stock = getattr(keras.applications, name)(include_top=False, weights=None, **kwargs)
    stock.set_weights(model.get_weights())
    x = module_of(name).preprocess_input(images().astype("float32"))
    assert_equal_in_scale(model(images()), stock(x))


def test_feature_extractors_of_any_size_or_a_fixed_size():
    model = load_small("MobileNet")
    assert model.input_shape == (None, None, None, 3)
    assert model.output_shape == (None, None, None, 256)
    assert model(images(64)).shape == (2, 2, 2, 256)
    assert model(images(97, batch=1)).shape == (1, 3, 3, 256)
    model = load_small("MobileNet", input_shape=(64, 96, 3))
    assert model.output_shape == (None, 2, 3, 256)
    assert load_small("MobileNetV3Small", input_shape=(64, 96, 3)).input_shape[1:3] == (
        64,
        96,
    )


def test_loaded_network_is_flat_with_stable_layer_names():
    for _ in range(2):
        model = load_small("VGG16")
        names = [operation.name for operation in model.operations[:4]]
        assert names == ["image", "preprocessing", "rgb_to_bgr", "block1_conv1"]
        assert model.name == "vgg16"
        assert not any(isinstance(layer, keras.Model) for layer in model.layers)


def test_classes_and_keyword_arguments_are_passed_to_keras():
    model = load_small("MobileNet", classes=5, input_shape=(32, 32, 3))
    assert model.layers[-1].name == "predictions"
    assert "conv_preds" in [layer.name for layer in model.layers]  # MobileNet's own
    np.testing.assert_allclose(np.sum(model(images()), axis=-1), 1, rtol=1e-5)
    model = load_small(
        "MobileNet", classes=5, input_shape=(32, 32, 3), classifier_activation=None
    )
    assert np.abs(np.sum(model(images()), axis=-1) - 1).min() > 1e-3
    assert load_small("MobileNet", pooling="avg").output_shape == (None, 256)


def test_include_top_is_passed_to_keras():
    model = load_small("MobileNet", include_top=True)
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, 1000)
    for kwargs in ({}, {"pooling": "max"}):
        model = load_small("MobileNet", include_top=False, classes=5, **kwargs)
        assert model.input_shape == (None, None, None, 3)
        assert isinstance(model.layers[-1], keras.layers.Dense)
        np.testing.assert_allclose(np.sum(model(images()), axis=-1), 1, rtol=1e-5)


def test_preprocessing_stays_in_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    model = load_small("MobileNet")
    assert model.get_layer("preprocessing").compute_dtype == "float32"
    assert model.get_layer("conv1").compute_dtype == "float16"


@pytest.fixture
def mobilenet_files(tmp_path):
    """Weight files of a MobileNet without a classifier and with one of 5 classes."""
    kwargs = {"weights": None, "alpha": 0.25}
    no_top = keras.applications.MobileNet(include_top=False, **kwargs)
    no_top.save_weights(tmp_path / "no_top.weights.h5")
    top = keras.applications.MobileNet(classes=5, input_shape=(32, 32, 3), **kwargs)
    top.save_weights(tmp_path / "top.weights.h5")
    return tmp_path


def load_file(path, **kwargs):
    kwargs = {"input_shape": (32, 32, 3), "alpha": 0.25, **kwargs}
    return applications.load("MobileNet", weights=path, **kwargs)


def kernel(model):
    return np.array(model.get_layer("conv_pw_13").kernel)


def test_weights_from_a_file(mobilenet_files):
    top, no_top = (mobilenet_files / f"{n}.weights.h5" for n in ("top", "no_top"))
    own = load_file(top, classes=5)
    np.testing.assert_array_equal(
        own.get_layer("conv_preds").kernel.shape, (1, 1, 256, 5)
    )
    features = load_file(str(no_top))
    assert np.abs(kernel(own) - kernel(features)).max() > 1e-3  # two different files
    new = load_file(no_top, classes=5)
    np.testing.assert_array_equal(kernel(new), kernel(features))
    assert isinstance(new.layers[-1], keras.layers.Dense)
    # A classifier of 5 classes does not fit 6; its features are loaded.
    other = load_file(top, classes=6)
    np.testing.assert_array_equal(kernel(other), kernel(own))
    assert other.output_shape == (None, 6)

    own.save_weights(mobilenet_files / "again.weights.h5")
    again = load_file(mobilenet_files / "again.weights.h5", classes=5)
    np.testing.assert_array_equal(again(images()), own(images()))


def test_weight_files_that_do_not_fit_are_rejected(mobilenet_files):
    path = mobilenet_files / "no_top.weights.h5"
    for kwargs in ({"classes": 5, "include_top": True}, {"alpha": 0.5}):
        with pytest.raises(
            ValueError, match="must be a file that fits MobileNet.*no_top"
        ):
            load_file(path, **kwargs)
    broken = mobilenet_files / "broken.weights.h5"
    broken.write_text("not HDF5")
    with pytest.raises(ValueError, match="must be a file that fits MobileNet.*broken"):
        load_file(broken)


def test_imagenet_weights_are_downloaded_for_the_input_size(monkeypatch, mobilenet_files):
    requested = []

    def get_file(name, *args, **kwargs):
        requested.append(name)
        return str(mobilenet_files / "no_top.weights.h5")

    monkeypatch.setattr(file_utils, "get_file", get_file)
    features = applications.load("MobileNet", alpha=0.25)  # without a size warning
    model = applications.load(
        "MobileNet", alpha=0.25, classes=7, input_shape=(128, 128, 3)
    )
    assert requested == [
        "mobilenet_2_5_224_tf_no_top.h5",
        "mobilenet_2_5_128_tf_no_top.h5",
    ]
    np.testing.assert_array_equal(kernel(model), kernel(features))
    assert model.layers[-1].name == "predictions"
    assert model.output_shape == (None, 7)


def test_the_imagenet_classifier_is_used_for_1000_classes_only(monkeypatch):
    calls = without_body(monkeypatch, "ResNet50")
    for classes in (1000, 10):
        applications.load("ResNet50", classes=classes)
    assert [call["include_top"] for call in calls] == [True, False]


def test_a_failed_download_suggests_random_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(file_utils, "urlretrieve", fail_to_download)
    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(tmp_path))
    message = "weights of MobileNet could not be downloaded.*`weights=None`.*URL fetch"
    with pytest.raises(OSError, match=message) as error:
        applications.load("MobileNet", alpha=0.25)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "ResNet5"},
            "`name` must be .*MobileNetV3Small, .*Did you mean 'ResNet50'",
        ),
        ({"name": "mobilenetv2"}, "name='mobilenetv2'. Did you mean 'MobileNetV2'"),
        ({"name": "resnet"}, "`name` must be one of"),  # a module
        ({"name": "qqqq"}, "Received: name='qqqq'.$"),
        ({"name": None}, "Received: name=None"),
        (
            {"weights": "no/such.weights.h5"},
            "that exists. .*weights='no/such.weights.h5'",
        ),
        ({"weights": "imagnet"}, "`weights` must be 'imagenet', None or"),
        ({"input_shape": (32, 32, 1)}, r"`input_shape` must be .*\(32, 32, 1\)"),
        ({"input_shape": (3, 32, 32)}, r"`input_shape` must be .*\(3, 32, 32\)"),
        ({"input_shape": (32, 32)}, r"`input_shape` must be .*\(32, 32\)"),
        ({"input_shape": (16, 16, 3)}, "at least 32x32"),  # from Keras
        ({"classes": 0}, "`classes` must be a positive integer or None. .*classes=0"),
        ({"classes": 2.5}, "`classes` must be a positive integer or None. .*classes=2.5"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        applications.load(**{"name": "MobileNet", "weights": None, **arguments})


def test_an_unknown_keyword_argument_raises_a_type_error():
    with pytest.raises(TypeError, match="depth"):
        applications.load("ResNet50", weights=None, depth=3)


LOAD_ALONE = """
import sys
sys.modules["keras_hybrid"] = None  # every import of it fails
import keras, numpy as np
for path in sys.argv[1:]:
    model = keras.models.load_model(path)
    np.save(path + ".npy", np.array(model(np.load("images.npy"))))
"""


@pytest.mark.parametrize("scheme", ["caffe", "tf", "torch"])
def test_with_preprocessing_adds_the_scheme_to_a_network(scheme):
    bare = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Identity()])
    expected = keras.applications.imagenet_utils.preprocess_input(
        images().astype("float32"), mode=scheme
    )
    found = applications.with_preprocessing(bare, scheme)(images())
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


def test_with_preprocessing_inside_returns_the_network():
    bare = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Identity()])
    assert applications.with_preprocessing(bare, "inside") is bare


def test_with_preprocessing_bgr_reverses_channels_only():
    image = keras.Input((None, None, 3))
    bare = keras.Model(image, keras.layers.Identity()(image))
    found = applications.with_preprocessing(bare, "bgr")(images())
    np.testing.assert_array_equal(found, images()[..., ::-1])


def test_an_unknown_preprocessing_scheme_is_rejected():
    bare = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Identity()])
    with pytest.raises(ValueError, match="`scheme` must be one of .*'BGR'"):
        applications.with_preprocessing(bare, "BGR")


def test_saved_models_load_without_keras_hybrid(tmp_path, shallow):
    names = [*SMALL.values(), "MobileNetV3Small", "EfficientNetB0", "ConvNeXtTiny"]
    np.save(tmp_path / "images.npy", images())
    expected = {}
    for name in names:
        model = load_small(name, input_shape=(32, 32, 3))
        expected[name] = np.array(model(images()))
        model.save(tmp_path / f"{name}.keras")
    command = [sys.executable, "-c", LOAD_ALONE, *(f"{name}.keras" for name in names)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for name in names:
        assert_equal_in_scale(np.load(tmp_path / f"{name}.keras.npy"), expected[name])
