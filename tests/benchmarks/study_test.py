"""A run of the study is what its row says."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tiny
from keras_hybrid import HybridTransfer
from keras_hybrid.baselines import AttentionTransfer


@pytest.fixture
def stepped(module):
    """`stepped(**row)`: the model after a step as such a row has it, and its changes."""
    run, plan = module("study.run"), module("study.plan")

    def step(**row):
        keras.utils.set_random_seed(0)
        model = HybridTransfer(tiny.teacher(), tiny.student(), balance=0.5)
        loss = "sparse_categorical_crossentropy"
        model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=False)
        model = run.varied(model, plan.Row({}, **row))
        before = [weight.numpy() for weight in model.trainable_variables]
        logs = model.train_on_batch(*tiny.batch(), return_dict=True)
        changes = {
            weight.path: weight.numpy() - old
            for weight, old in zip(model.trainable_variables, before, strict=True)
        }
        return model, changes, logs

    return step


def test_arguments_of_the_model(stepped):
    model, _, logs = stepped(hybrid={"switch_points": [4]})
    assert logs["balance"] == 0.5
    assert [path.owners for path in model.paths] == [
        ("student", "teacher"),
        ("teacher", "student"),
        ("student", "student"),
    ]


def test_a_row_keeps_the_other_settings_of_its_recipe(module):
    run, plan = module("study.run"), module("study.plan")
    settings = {"switch_points": (4,), "balance": 0.5, "paths_per_step": 1}
    settings |= {"teacher_dtype": "bfloat16", "plus": AttentionTransfer(2.0)}
    model = HybridTransfer(tiny.teacher(), tiny.student(), **settings)
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    changed = run.varied(model, plan.Row({}, adapter_rate=10.0))
    assert changed.plus.get_config() == settings.pop("plus").get_config()
    for name in settings:
        assert getattr(changed, name) == getattr(model, name), name
    assert changed.fit(*tiny.batch(), verbose=0).history["transfer_loss"][0] > 0


def test_the_loss_and_its_gradients_are_scaled(stepped):
    _, whole, logs = stepped()
    _, third, third_logs = stepped(loss_factor=1 / 3)
    np.testing.assert_allclose(third_logs["loss"], logs["loss"] / 3, rtol=1e-6)
    for path, change in whole.items():
        np.testing.assert_allclose(third[path], change / 3, rtol=1e-3, atol=2e-6)


def test_adapters_learn_at_a_rate_of_their_own(stepped):
    _, plain, _ = stepped()
    _, faster, _ = stepped(adapter_rate=10.0)
    for path, change in plain.items():
        # An adapter's weights count times the root of 10, and so does their change.
        factor = 10**0.5 if "_adapter" in path else 1
        np.testing.assert_allclose(faster[path], factor * change, rtol=1e-3, atol=2e-6)
    assert any("_adapter" in path for path in plain)


@pytest.mark.parametrize(
    "row", [{"adapter_rate": 10.0}, {"hybrid": {"track_paths": True}}]
)
def test_a_row_starts_where_ours_does(stepped, row):
    _, _, logs = stepped()
    _, _, changed = stepped(**row)
    for name in ("student_loss", "student_first_loss", "teacher_first_loss"):
        assert changed[name] == pytest.approx(logs[name], rel=1e-5)


def test_batch_normalization_behind_adapters(stepped):
    model, changes, _ = stepped(adapter_norm=True)
    for adapter in model.adapters:
        assert f"{adapter.name}/norm/gamma" in changes
    x = np.random.default_rng(0).normal(3, 2, (8, 4, 4, 4)).astype("float32")
    y = model.adapters[0](x, size=(4, 4)).numpy()
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=0.1)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, atol=0.1)


def test_a_teacher_that_knows_nothing_keeps_the_scale_of_its_maps(module):
    materials = module("study.materials")
    keras.utils.set_random_seed(0)
    teacher = keras.Sequential([keras.Input((16, 16, 3))])
    for _ in range(5):
        teacher.add(keras.layers.Conv2D(64, 3, padding="same", activation="relu"))
    known = [weight.numpy() + 1 for weight in teacher.weights]
    teacher.set_weights(known)
    materials.reinitialize(teacher)
    x = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")
    # He et al. (2015): the second moment of what comes in is that of what goes out.
    power = np.mean(np.square(keras.ops.convert_to_numpy(teacher(x))))
    assert 0.5 < power < 2, power
    for weight, old in zip(teacher.weights, known, strict=True):
        assert not np.allclose(weight.numpy(), old)
        if weight.name == "bias":
            assert not weight.numpy().any()


def test_a_teacher_in_half_precision(module):
    materials = module("study.materials")
    keras.utils.set_random_seed(0)
    teacher = tiny.teacher()
    x, _ = tiny.batch()
    full = keras.ops.convert_to_numpy(teacher(x))
    materials.in_bfloat16(teacher)
    convolution = next(x for x in teacher.layers if isinstance(x, keras.layers.Conv2D))
    assert convolution(convolution.input).dtype == "bfloat16"
    assert all(weight.dtype == "float32" for weight in teacher.weights)
    # By XLA: oneDNN's convolutions of bfloat16 need AVX-512, and TensorFlow 2.21 asks the
    # CPU for it, not ONEDNN_MAX_CPU_ISA.
    half = tf.function(teacher, jit_compile=True)(x).numpy().astype("float32")
    # Eight bits of a number are kept.
    assert 0 < np.abs(half - full).max() < 2**-5 * np.abs(full).max()


def test_validation_images_are_held_out_of_each_class(module, tmp_path):
    labels = np.repeat(np.arange(3), 7)
    images = np.arange(21)[:, None]
    np.savez(tmp_path / "all.npz", x_train=images, y_train=labels)
    module("study.materials").hold_out(tmp_path / "all.npz", tmp_path / "part.npz")
    with np.load(tmp_path / "part.npz") as part:
        assert part["x_train"].ravel().tolist() == [0, 1, 7, 8, 14, 15]
        assert part["y_train"].tolist() == [0, 0, 1, 1, 2, 2]
        tested = [*range(2, 7), *range(9, 14), *range(16, 21)]
        assert part["x_test"].ravel().tolist() == tested
        assert part["y_test"].tolist() == [0] * 5 + [1] * 5 + [2] * 5
