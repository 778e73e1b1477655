"""`teacher_dtype`: the teacher computes in bfloat16 or float16, and nothing else does."""

import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging

import equations
import tiny
import token_networks
from keras_hybrid import HybridTransfer
from keras_hybrid.baselines import AttentionTransfer, FeatureTransfer
from keras_hybrid.hybrid import precision

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy()
OUT = [f"out{i}" for i in (1, 2, 3)]


@pytest.fixture
def fast(monkeypatch):
    """As on a CPU with all instructions, or a GPU."""
    monkeypatch.setattr(precision, "_is_fast", lambda dtype: True)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_step_is_that_of_a_teacher_built_in_that_precision(dtype, fast):
    """Up to the rounding of folded batch normalization; one in float32 gives another."""
    teacher = tiny.teacher()
    keras.config.set_dtype_policy(f"mixed_{dtype}")
    built = tiny.teacher()
    keras.config.set_dtype_policy("float32")
    built.set_weights(teacher.get_weights())
    student = tiny.student(batch_norm=False)
    model = HybridTransfer(teacher, student, teacher_dtype=dtype)
    images, labels = tiny.batch(8)
    kernels = [(a.convolution.kernel, a.convolution.bias) for a in model.adapters]
    variables = [v.value for v in model.trainable_variables]

    def forward(teacher):
        return equations.hybrid_forward(
            teacher, student, [*zip(OUT, OUT)], kernels, tf.constant(images)
        )

    expected, in_float32 = (
        equations.losses_and_gradients(
            lambda network=network: forward(network), CROSS_ENTROPY, labels, variables
        )
        for network in (built, teacher)
    )
    model.compile(keras.optimizers.SGD(1.0), CROSS_ENTROPY, auto_scale_loss=False)
    before = [v.numpy() for v in model.trainable_variables]
    logs = model.train_on_batch(images, labels, return_dict=True)
    names = "student_first_loss", "teacher_first_loss", "student_loss"
    found = np.array([logs[name] for name in names])
    np.testing.assert_allclose(found, expected[1], rtol=2e-3)
    assert np.all(found[:2] != np.float32(in_float32[1][:2]))
    assert found[2] == pytest.approx(in_float32[1][2], rel=1e-6)
    bound = {"bfloat16": 0.1, "float16": 0.01}[dtype]
    for variable, old, gradient in zip(model.trainable_variables, before, expected[2]):
        error = np.linalg.norm(old - variable.numpy() - gradient)
        assert error <= bound * np.linalg.norm(gradient), variable.path


@pytest.mark.parametrize(
    ("paths", "teacher"),
    [(2, tiny.teacher), (1, lambda: token_networks.vit(prefix=1))],
    ids=["cnn", "vit"],
)
def test_training_leaves_the_teacher_and_the_student_as_they_are(paths, teacher, fast):
    teacher, student = teacher(), tiny.student()
    weights = [w.numpy() for w in teacher.weights]
    model = HybridTransfer(
        teacher, student, teacher_dtype="bfloat16", paths_per_step=paths
    )
    model.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY)
    images, labels = tiny.batch(16)
    history = model.fit(images, labels, batch_size=8, epochs=8, verbose=0).history
    assert history["student_loss"][-1] < 0.8 * history["student_loss"][0]
    for network in (teacher, student, *model.adapters):
        assert {x.dtype_policy.name for x in network._flatten_layers()} == {"float32"}
    for weight, before in zip(teacher.weights, weights, strict=True):
        assert weight.dtype == "float32"
        np.testing.assert_array_equal(weight.numpy(), before)


def test_an_error_in_the_teacher_leaves_its_policies_as_they_are():
    teacher = tiny.teacher()
    seen = []

    def fail():
        with precision.computing_in("bfloat16", teacher):
            seen.append(teacher.get_layer("conv1").compute_dtype)
            raise ZeroDivisionError

    pytest.raises(ZeroDivisionError, fail)
    assert seen == ["bfloat16"]
    assert teacher.get_layer("conv1").compute_dtype == "float32"


@pytest.mark.parametrize("scales", [True, False])
@pytest.mark.parametrize("of_student", [True, False])
def test_the_loss_is_scaled_for_gradients_through_float16(
    of_student, scales, fast, eager, tmp_path
):
    """Also after the model has been saved and loaded."""
    keras.config.set_dtype_policy("mixed_float16" if of_student else "float32")
    student = tiny.student(dtype="float32")  # of the head
    keras.config.set_dtype_policy("float32")
    dtype = None if of_student else "float16"
    model = HybridTransfer(tiny.teacher(), student, teacher_dtype=dtype)
    model.compile("sgd", CROSS_ENTROPY, auto_scale_loss=scales)
    model.train_on_batch(*tiny.batch())
    model.save(tmp_path / "model.keras")
    for each in (model, keras.models.load_model(tmp_path / "model.keras")):
        scaled = isinstance(each.optimizer, keras.optimizers.LossScaleOptimizer)
        assert scaled == scales
        assert each.optimizer.iterations == 1


def test_a_cpu_without_instructions_for_it_computes_as_before(monkeypatch, eager):
    monkeypatch.setattr(precision, "_flags_of_cpu", lambda: ["avx2", "avx512f"])
    lines, logs = [], []
    monkeypatch.setattr(logging, "warning", lambda text, *args: lines.append(text % args))
    for dtype in (None, "bfloat16", "float16"):
        keras.utils.set_random_seed(1)
        model = HybridTransfer(tiny.teacher(), tiny.student(), teacher_dtype=dtype)
        model.compile("sgd", CROSS_ENTROPY, auto_scale_loss=False)
        logs.append(model.train_on_batch(*tiny.batch(8), return_dict=True))
    assert logs[0] == logs[1] == logs[2]
    assert [dtype in line for dtype, line in zip(("bfloat16", "float16"), lines)] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("flags", "most", "onednn", "is_fast"),
    [
        ("avx512_vnni avx512_bf16", "", "1", True),
        ("avx512_vnni amx_bf16", "AVX512_CORE_AMX", "1", True),
        ("avx512_vnni", "", "1", False),
        ("avx512_vnni avx512_bf16", "AVX2", "1", False),
        ("avx512_vnni avx512_bf16", "", "0", False),
    ],
)
def test_instructions(flags, most, onednn, is_fast, monkeypatch):
    monkeypatch.setattr(precision, "_flags_of_cpu", lambda: ["flags", *flags.split()])
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", onednn)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", most or "DEFAULT")
    assert precision._is_fast("bfloat16") == is_fast
    assert not precision._is_fast("float16")


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ([(9, 0), (8, 0)], ["bfloat16", "float16"]),
        ([(8, 6), (7, 5)], ["float16"]),
        ([(6, 1)], []),
        ([None], ["bfloat16", "float16"]),  # not NVIDIA's
    ],
)
def test_a_gpu_has_tensor_cores_for_it(capabilities, fast, monkeypatch):
    """Compute capabilities 8.0 and 7.0, as Keras's guide to mixed precision has them."""

    def details(capability):
        return {"compute_capability": capability} if capability else {}

    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: capabilities)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details)
    found = [dtype for dtype in ("bfloat16", "float16") if precision._is_fast(dtype)]
    assert found == fast


@pytest.mark.parametrize(
    ("device", "fast"),
    [
        ({"platform": "gpu", "compute_capability": "8.0"}, ["bfloat16", "float16"]),
        ({"platform": "gpu", "compute_capability": "7.5"}, ["float16"]),
        ({"platform": "gpu", "compute_capability": "gfx90a"}, ["bfloat16", "float16"]),
        ({"platform": "tpu"}, ["bfloat16", "float16"]),
        ({"platform": "cpu"}, []),
    ],
)
def test_devices_of_jax(device, fast, monkeypatch):
    jax = types.SimpleNamespace(devices=lambda: [types.SimpleNamespace(**device)])
    assert _fast_with("jax", jax, monkeypatch) == fast


@pytest.mark.parametrize(
    ("cuda", "other", "fast"),
    [
        ([(12, 0), (8, 0)], True, ["bfloat16", "float16"]),
        ([(12, 0), (7, 5)], True, ["float16"]),
        ([], True, ["bfloat16", "float16"]),
        ([], False, ["bfloat16"]),  # a CPU
    ],
)
def test_devices_of_torch(cuda, other, fast, monkeypatch):
    torch = types.SimpleNamespace(
        cuda=types.SimpleNamespace(
            is_available=lambda: bool(cuda),
            device_count=lambda: len(cuda),
            get_device_capability=cuda.__getitem__,
        ),
        accelerator=types.SimpleNamespace(is_available=lambda: other),
    )
    assert _fast_with("torch", torch, monkeypatch) == fast


def _fast_with(backend, module, monkeypatch):
    """The dtypes that are fast with a backend, on a CPU that multiplies bfloat16."""
    monkeypatch.setattr(precision, "_flags_of_cpu", lambda: ["flags", "avx512_bf16"])
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "DEFAULT")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")  # TensorFlow's alone
    monkeypatch.setitem(sys.modules, backend, module)
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    return [dtype for dtype in ("bfloat16", "float16") if precision._is_fast(dtype)]


@pytest.mark.parametrize("method", ["at", "kd"])
def test_the_teacher_of_a_baseline(method, fast, eager):
    losses = []
    for dtype in (None, "bfloat16"):
        keras.utils.set_random_seed(1)
        teacher = tiny.teacher() if method == "at" else tiny.student()
        model = FeatureTransfer(teacher, tiny.student(), method, teacher_dtype=dtype)
        model.compile("sgd", CROSS_ENTROPY)
        logs = model.train_on_batch(*tiny.batch(8), return_dict=True)
        losses.append(logs["transfer_loss"])
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.02)


class Hidden(keras.layers.Layer):
    """A layer in a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        return self.layer(x)


class WithHead(keras.Model):
    def __init__(self, backbone, head):
        super().__init__()
        self.backbone, self.head = backbone, head
        self(np.zeros((1, 32, 32, 3), "float32"))

    def call(self, x):
        return self.head(self.backbone(x))


def test_probabilities_of_a_teacher_in_bfloat16_are_in_full_precision(fast, eager):
    """Also if a reshape follows, inside of a layer, and of a `.head`.

    In bfloat16, sigmoid(7) is 1, of an infinite logit.
    """
    image = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    head = keras.layers.Dense(
        4, "sigmoid", bias_initializer=keras.initializers.Constant(7)
    )
    teachers = (
        keras.Model(image, head(x)),
        keras.Model(image, keras.layers.Reshape((4,))(head(x))),
        keras.Model(image, Hidden(head)(x)),
        WithHead(keras.Model(image, x), head),
    )
    losses = []
    for teacher in teachers:
        student = tiny.student()
        student.set_weights([np.zeros(w.shape) for w in student.weights])
        student.layers[-1].activation = keras.activations.sigmoid
        model = FeatureTransfer(teacher, student, "kd", teacher_dtype="bfloat16")
        model.compile("sgd", "binary_crossentropy")
        images, _ = tiny.batch()
        logs = model.train_on_batch(images, np.ones((8, 4)), return_dict=True)
        losses.append(logs["transfer_loss"])
    assert losses == pytest.approx([losses[0]] * len(teachers), rel=1e-3)


def test_pixels_are_scaled_in_full_precision():
    """Numbers to 255 are 1 apart in bfloat16."""
    image = keras.Input((1, 1, 1))
    scaled = keras.layers.Rescaling(1 / 255, dtype="float32")(image)
    normalization = keras.layers.Normalization(mean=0.5, variance=0.01, dtype="float32")
    teacher = keras.Model(image, normalization(scaled))
    pixels = np.reshape(np.float32([200.0, 200.4]), (2, 1, 1, 1))
    with precision.computing_in("bfloat16", teacher):
        found = teacher(pixels)
    np.testing.assert_array_equal(found, teacher(pixels))


def test_a_list_of_one_teacher_and_a_baseline(fast, eager):
    plus = AttentionTransfer(1.0)
    settings = {"plus": plus, "teacher_dtype": "bfloat16"}
    model = HybridTransfer([tiny.teacher()], tiny.student(), **settings)
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert np.isfinite(model.train_on_batch(*tiny.batch())).all()


def test_a_model_that_only_evaluates(fast, eager):
    model = HybridTransfer(tiny.teacher(), tiny.student(), teacher_dtype="float16")
    model.compile(None, "sparse_categorical_crossentropy")
    assert np.isfinite(model.evaluate(*tiny.batch(), verbose=0))


def test_it_is_saved(tmp_path, fast):
    for model in (
        HybridTransfer(tiny.teacher(), tiny.student(), teacher_dtype="bfloat16"),
        FeatureTransfer(tiny.teacher(), tiny.student(), "at", teacher_dtype="bfloat16"),
    ):
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded.teacher_dtype == "bfloat16"
        assert loaded.teacher.dtype_policy.name == "float32"


@pytest.mark.parametrize("dtype", ["float8", "mixed_bfloat16", "float32", 16])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match='must be None, "bfloat16" or "float16". Rec'):
        HybridTransfer(tiny.teacher(), tiny.student(), teacher_dtype=dtype)
    with pytest.raises(ValueError, match='must be None, "bfloat16" or "float16". Rec'):
        FeatureTransfer(tiny.teacher(), tiny.student(), "at", teacher_dtype=dtype)
