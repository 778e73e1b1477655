"""Several teachers of one student."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import equations
import tiny
import token_networks
from keras_hybrid import HybridTransfer, describe
from keras_hybrid.hybrid.transfer import STUDENT_FIRST, TEACHER_FIRST

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy()
OUT = [f"out{i}" for i in (1, 2, 3)]


def shallow():
    """A teacher with the strides 2 and 4 only: its joint is at 4."""
    return tiny.teacher(channels=(5, 7), name="shallow")


def student():
    return tiny.student(batch_norm=False)


def transfer(**options):
    return HybridTransfer([tiny.teacher(), shallow()], student(), **options)


def test_each_teacher_has_two_paths_and_the_plain_one_is_last():
    model = transfer()
    names = [f"{kind}_{i}" for i in (1, 2) for kind in (STUDENT_FIRST, TEACHER_FIRST)]
    assert [path.name for path in model.paths] == [*names, "plain"]
    owners = [path.owners for path in model.paths]
    assert owners[1] == ("teacher", "student", "teacher")
    assert owners[3] == ("teacher", "student")
    assert len({adapter.name for adapter in model.adapters}) == len(model.adapters) == 8
    assert "teacher_first_2 path" in describe(model)


@pytest.mark.parametrize("alpha", [None, 0.7])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_training_step_follows_the_equation_of_several_teachers(alpha, batch_norm):
    keras.config.set_dtype_policy("float64")
    teachers, network = [tiny.teacher(), shallow()], tiny.student(batch_norm=batch_norm)
    balance = "dynamic" if alpha is None else alpha
    model = HybridTransfer(teachers, network, balance=balance, track_paths=True)
    images, labels = tiny.batch(4)
    points = [list(zip(OUT, OUT)), list(zip(OUT[:2], OUT[:2]))]
    kernels = [
        [
            (adapter.convolution.kernel, adapter.convolution.bias)
            for path in paths
            for adapter in path.adapters
        ]
        for paths in (model.paths[:2], model.paths[2:4])
    ]
    variables = [v.value for v in model.trainable_variables]
    before = [v.numpy() for v in model.variables]
    with tf.GradientTape(persistent=True) as tape:
        losses = []
        for each in zip(teachers, points, kernels):
            teacher, pairs, weights = each
            predictions = equations.hybrid_forward(
                teacher, network, pairs, weights, tf.constant(images)
            )
            losses += [CROSS_ENTROPY(labels, y) for y in predictions[:2]]
        losses.append(CROSS_ENTROPY(labels, predictions[2]))
    *hybrid, l3 = map(float, losses)
    factor = 2 * 2 * l3 / sum(hybrid) if alpha is None else alpha
    *parts, own = [
        tape.gradient(loss, variables, unconnected_gradients="zero") for loss in losses
    ]
    expected = [factor * sum(g) + g3 for *g, g3 in zip(*parts, own)]
    for variable, value in zip(model.variables, before):
        variable.assign(value)
    model.compile(keras.optimizers.SGD(1.0), CROSS_ENTROPY, metrics=["accuracy"])
    old = [v.numpy() for v in model.trainable_variables]
    logs = model.train_on_batch(images, labels, return_dict=True)
    assert logs["balance"] == pytest.approx(factor, rel=1e-5)
    names = [path.name for path in model.paths[:-1]]
    found = [logs[f"{name}_loss"] for name in names]
    assert found == pytest.approx(hybrid, rel=1e-5)
    assert logs["student_loss"] == pytest.approx(l3, rel=1e-5)
    assert logs["loss"] == pytest.approx(factor * sum(hybrid) + l3, rel=1e-5)
    assert {f"{name}_accuracy" for name in names} <= logs.keys()
    for variable, value, gradient in zip(model.trainable_variables, old, expected):
        np.testing.assert_allclose(
            value - variable.numpy(), gradient, atol=2e-6, err_msg=variable.path
        )


def test_a_list_of_one_teacher_is_one_teacher():
    teacher, images_and_labels = tiny.teacher(), tiny.batch(4)
    logs = []
    for given in (teacher, [teacher]):
        keras.utils.set_random_seed(1)
        model = HybridTransfer(given, student())
        model.compile("sgd", CROSS_ENTROPY)
        logs.append(model.train_on_batch(*images_and_labels, return_dict=True))
    assert logs[0] == logs[1]


def test_every_teacher_has_its_own_preprocessing_and_switch_points():
    vit = token_networks.vit(prefix=1, name="vit")
    model = HybridTransfer(
        [tiny.teacher(), vit],
        tiny.student(size=24),
        teacher_preprocessing=["tf", "inside"],
        switch_points=[(4,), None],
    )
    images = tiny.batch(2, size=24)[0]
    seen = [path.inputs(images)["teacher"] for path in model.paths[::2][:2]]
    np.testing.assert_allclose(seen[0], images / 127.5 - 1, rtol=1e-5)
    assert tuple(seen[1].shape) == (2, 32, 32, 3)
    assert [len(path.segments) for path in model.paths] == [2, 2, 3, 3, 3]
    for argument, value in (("switch_points", [(4,)]), ("teacher_preprocessing", ["tf"])):
        with pytest.raises(ValueError, match=f"`{argument}` must have an entry for each"):
            transfer(**{argument: value})


def test_strides_in_a_list_are_for_all_teachers():
    teachers = [tiny.teacher(), tiny.teacher()]
    of_list, of_tuple, other = (
        [
            [segment.end.layer_name for segment in path.segments]
            for path in HybridTransfer(teachers, tiny.student(), switch_points=p).paths
        ]
        for p in ([2, 4], (2, 4), (4,))
    )
    assert of_list == of_tuple != other


def test_a_list_of_one_teacher_takes_a_list_of_one_preprocessing():
    model = HybridTransfer(
        [tiny.teacher()],
        tiny.student(),
        teacher_preprocessing=["tf"],
        switch_points=[("out1", "out1"), ("out3", "out3")],
    )
    images = tiny.batch(2)[0]
    seen = model.paths[0].inputs(images)["teacher"]
    np.testing.assert_allclose(seen, images / 127.5 - 1, rtol=1e-5)


def test_teachers_stay_frozen_and_a_saved_model_trains_on(tmp_path, eager):
    model = transfer(teacher_preprocessing=[None, layers.Rescaling(0.5)])
    model.compile(keras.optimizers.Adam(0.01), CROSS_ENTROPY)
    frozen = [w.numpy() for teacher in model.teacher for w in teacher.weights]
    images, labels = tiny.batch(8)
    model.fit(images, labels, batch_size=4, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    histories = [
        each.fit(images, labels, batch_size=4, shuffle=False, verbose=0).history
        for each in (model, loaded)
    ]
    assert histories[0] == histories[1]
    for weight, old in zip(
        (w for teacher in model.teacher for w in teacher.weights), frozen, strict=True
    ):
        np.testing.assert_array_equal(weight.numpy(), old)


def test_invalid_lists_of_teachers():
    with pytest.raises(
        ValueError, match="`teacher` must be .* or a list of at least one"
    ):
        HybridTransfer([], student())
    with pytest.raises(TypeError, match="`teacher` must be a keras.Model"):
        HybridTransfer([tiny.teacher(), "VGG16"], student())
    network = student()
    with pytest.raises(ValueError, match="must be two models"):
        HybridTransfer([tiny.teacher(), network], network)
