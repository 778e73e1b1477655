"""One hybrid path a step: `paths_per_step=1`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from counting import with_counting
from keras import layers

import equations
import tiny
from keras_hybrid import HybridTransfer
from keras_hybrid.baselines import FitNet

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy()
OUT = [f"out{i}" for i in (1, 2, 3)]
STUDENT_FIRST, TEACHER_FIRST = "student_first", "teacher_first"


def teachers(count):
    """One or two: the second one has the strides 2 and 4 only."""
    return [tiny.teacher(), tiny.teacher(channels=(5, 7), name="shallow")][:count]


def predictions(model, networks, images):
    """Those of all hybrid paths and, last, of the plain one."""
    found = []
    for i, teacher in enumerate(networks):
        names = OUT[: 3 - i]
        weights = [
            (adapter.convolution.kernel, adapter.convolution.bias)
            for path in model.paths[2 * i : 2 * i + 2]
            for adapter in path.adapters
        ]
        *hybrid, plain = equations.hybrid_forward(
            teacher, model.student, [*zip(names, names)], weights, tf.constant(images)
        )
        found += hybrid
    return [*found, plain]


@pytest.mark.parametrize(("count", "alpha"), [(1, 0.7), (2, None)])
def test_every_step_follows_the_equation_of_its_path(count, alpha):
    """Li and alpha of the path whose turn it is; the others have no gradient."""
    keras.config.set_dtype_policy("float64")
    networks = teachers(count)
    balance = "dynamic" if alpha is None else alpha
    model = HybridTransfer(networks, tiny.student(), balance=balance, paths_per_step=1)
    model.compile(keras.optimizers.SGD(1.0), CROSS_ENTROPY)
    variables = model.trainable_variables
    names = [path.name for path in model.paths[:-1]]
    for step in range(2 * count + 1):
        images, labels = tiny.batch(4, seed=step)
        before = [v.numpy() for v in model.variables]
        old = [v.numpy() for v in variables]
        turn = step % (2 * count)
        with tf.GradientTape(persistent=True) as tape:
            *hybrid, own = [
                CROSS_ENTROPY(labels, y) for y in predictions(model, networks, images)
            ]
        factor = float(own) / float(hybrid[turn]) if alpha is None else alpha
        of_path, of_own = (
            tape.gradient(
                loss, [v.value for v in variables], unconnected_gradients="zero"
            )
            for loss in (hybrid[turn], own)
        )
        for variable, value in zip(model.variables, before):
            variable.assign(value)
        logs = model.train_on_batch(images, labels, return_dict=True)
        assert logs["balance"] == pytest.approx(factor, rel=1e-5)
        assert logs["student_loss"] == pytest.approx(float(own), rel=1e-5)
        found = [logs[f"{name}_loss"] for name in names]
        expected = [float(loss) if i == turn else 0 for i, loss in enumerate(hybrid)]
        assert found == pytest.approx(expected, rel=1e-5)
        total = 2 * count * factor * float(hybrid[turn]) + float(own)
        assert logs["loss"] == pytest.approx(total, rel=1e-5)
        for variable, value, g_path, g_own in zip(variables, old, of_path, of_own):
            gradient = 2 * count * factor * g_path + g_own
            np.testing.assert_allclose(
                value - variable.numpy(), gradient, atol=4e-6, err_msg=variable.path
            )


def gradient_of_step(model, images, labels):
    """What a step subtracts from the weights, which it leaves as they were."""
    before = [v.numpy() for v in model.variables]
    old = [v.numpy() for v in model.trainable_variables]
    model.train_on_batch(images, labels)
    taken = [a - v.numpy() for a, v in zip(old, model.trainable_variables)]
    for variable, value in zip(model.variables, before):
        variable.assign(value)
    return taken


@pytest.mark.parametrize("count", [1, 2])
def test_the_mean_over_all_turns_is_the_gradient_of_all_paths(count, eager):
    keras.config.set_dtype_policy("float64")
    images, labels = tiny.batch(4)
    gradients = {}
    for paths in (1, 2):
        keras.utils.set_random_seed(2)
        model = HybridTransfer(
            teachers(count), tiny.student(), balance=0.7, paths_per_step=paths
        )
        model.compile(keras.optimizers.SGD(1.0), CROSS_ENTROPY)
        steps = 2 * count if paths == 1 else 1
        gradients[paths] = [gradient_of_step(model, images, labels) for _ in range(steps)]
    for *of_turns, of_all in zip(*gradients[1], *gradients[2]):
        np.testing.assert_allclose(np.mean(of_turns, axis=0), of_all, atol=1e-7)


def test_the_other_path_is_not_computed():
    teacher, in_teacher = with_counting(tiny.teacher(), "conv1")
    student, in_student = with_counting(tiny.student(batch_norm=False), "conv2")
    model = HybridTransfer(teacher, student, paths_per_step=1)
    model.compile("sgd", CROSS_ENTROPY)
    images, labels = tiny.batch(40)
    model.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
    # Of five steps, two are teacher-first: T1, S2, T3. All have the plain path.
    assert in_teacher.count == 2
    assert in_student.count == 5 + 2


def with_dropout(rate):
    student = tiny.student()
    x = layers.Dropout(rate, seed=4)(student.get_layer("out3").output)
    x = student.get_layer("classifier")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(student.input, x)


def trained(batch_norm, dropout, batch_size=8, **how):
    """A model after an epoch of 40 images, and its logs."""
    keras.utils.set_random_seed(3)
    model = HybridTransfer(
        tiny.teacher(),
        with_dropout(dropout),
        paths_per_step=1,
        student_batch_norm=batch_norm,
        track_paths=True,
    )
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, CROSS_ENTROPY, metrics=["accuracy"], **how)
    images, labels = tiny.batch(40)
    settings = {"batch_size": batch_size, "shuffle": False, "verbose": 0}
    logs = model.fit(images, labels, **settings).history
    return [*model.student.weights, *model.adapters], logs


@pytest.mark.parametrize(
    ("batch_norm", "how"),
    [
        ("plain", {}),
        ("all", {"steps_per_execution": 3}),
        # A last batch that is smaller makes the size of the batch unknown to XLA.
        ("plain", {"jit_compile": True, "batch_size": 12}),
    ],
    ids=str,
)
def test_graphs_compute_what_eager_mode_does(how, batch_norm):
    dropout = 0 if "jit_compile" in how else 0.5  # XLA has random numbers of its own
    batch_size = how.get("batch_size", 8)
    eagerly = {"run_eagerly": True, "batch_size": batch_size}
    expected, expected_logs = trained(batch_norm, dropout, **eagerly)
    found, logs = trained(batch_norm, dropout, **how)
    assert {f"{STUDENT_FIRST}_accuracy", f"{TEACHER_FIRST}_accuracy"} <= logs.keys()
    for name, value in expected_logs.items():
        assert logs[name] == pytest.approx(value, rel=1e-4), name
    for weight, other in zip(found, expected, strict=True):
        pairs = [(weight, other)]
        if isinstance(weight, keras.Layer):
            pairs = zip(weight.weights, other.weights, strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-5, err_msg=a.path)


def test_two_teachers_in_xla():
    """A last batch that is smaller makes the size of the batch unknown to XLA."""
    images, labels = tiny.batch(20)
    found = []
    for how in ({"run_eagerly": True}, {"jit_compile": True}):
        keras.utils.set_random_seed(3)
        teachers = [tiny.teacher(channels=(width, 8)) for width in (4, 6)]
        student = tiny.student(channels=(4, 6), batch_norm=False)
        model = HybridTransfer(teachers, student, paths_per_step=1)
        model.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY, **how)
        model.fit(images, labels, batch_size=6, shuffle=False, verbose=0)
        found.append([w.numpy() for w in model.trainable_weights])
    for of_eager, of_xla in zip(*found, strict=True):
        np.testing.assert_allclose(of_xla, of_eager, atol=1e-5)


@pytest.mark.parametrize("batch_norm", ["plain", "all"])
def test_moving_averages_and_metrics_are_those_of_the_paths_that_ran(batch_norm, eager):
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        model = HybridTransfer(
            tiny.teacher(),
            tiny.student(),
            paths_per_step=1,
            student_batch_norm=batch_norm,
            track_paths=True,
        )
        model.compile(keras.optimizers.SGD(0.0), CROSS_ENTROPY, metrics=["accuracy"])
        models.append(model)
    model, other = models
    *_, plain = other.paths
    averages = other.student.non_trainable_weights
    for i in range(3):
        images, labels = tiny.batch(8, seed=i)
        logs = model.train_on_batch(images, labels, return_dict=True)
        taken = other.paths[i % 2]
        plain(images, training=True)
        before = [weight.numpy() for weight in averages]
        y = keras.ops.convert_to_numpy(taken(images, training=True))
        if batch_norm == "plain":
            for weight, value in zip(averages, before, strict=True):
                weight.assign(value)
        accuracy = np.mean(np.argmax(y, axis=-1) == labels)
        assert logs[f"{taken.name}_accuracy"] == pytest.approx(accuracy)
        for weight, expected in zip(model.student.non_trainable_weights, averages):
            np.testing.assert_allclose(weight.numpy(), expected.numpy(), atol=1e-6)


def turns_of(model, images, labels, steps):
    """The hybrid path of each step, by which loss it logs."""
    turns = []
    for _ in range(steps):
        logs = model.train_on_batch(images, labels, return_dict=True)
        (name,) = (n for n in (STUDENT_FIRST, TEACHER_FIRST) if logs[f"{n}_loss"])
        turns.append(name)
    return turns


@pytest.mark.parametrize(
    ("options", "turns"),
    [
        ({}, [STUDENT_FIRST, TEACHER_FIRST] * 2),
        (
            {"gradient_accumulation_steps": 2},
            [STUDENT_FIRST, STUDENT_FIRST, TEACHER_FIRST, TEACHER_FIRST],
        ),
    ],
    ids=str,
)
def test_turns_follow_the_optimizers_count_of_iterations(options, turns):
    model = HybridTransfer(tiny.teacher(), tiny.student(), paths_per_step=1)
    model.compile(keras.optimizers.SGD(0.01, **options), CROSS_ENTROPY)
    assert turns_of(model, *tiny.batch(4), steps=4) == turns


def test_an_infinite_loss_of_a_path_is_not_in_the_mean_of_the_other(eager):
    model = HybridTransfer(tiny.teacher(), tiny.student(), paths_per_step=1)
    model.compile("sgd", CROSS_ENTROPY)
    images, labels = tiny.batch()
    for adapter in model.paths[0].adapters:
        adapter.convolution.bias.assign(np.full(adapter.channels, 1e38))
    for count in (0, 1):
        model.optimizer.iterations.assign(count)
        model.compute_loss(images, labels, model(images))
    logs = model.get_metrics_result()
    assert not np.isfinite(logs["student_first_loss"])
    assert np.isfinite(logs["teacher_first_loss"])


def test_a_step_that_overflows_is_taken_again():
    keras.config.set_dtype_policy("mixed_float16")
    student = tiny.student(batch_norm=False, dtype="float32")
    model = HybridTransfer(tiny.teacher(), student, paths_per_step=1)
    model.compile(keras.optimizers.SGD(0.01), CROSS_ENTROPY)
    images, labels = tiny.batch(4)
    assert turns_of(model, images, labels, 2) == [STUDENT_FIRST, TEACHER_FIRST]
    too_much = np.full(len(labels), 1e36, "float32")
    model.train_on_batch(images, labels, sample_weight=too_much)  # student-first
    assert turns_of(model, images, labels, 2) == [STUDENT_FIRST, TEACHER_FIRST]


@pytest.mark.parametrize("paths", [0, 3, "1", None])
def test_other_numbers_of_paths_are_refused(paths):
    with pytest.raises(ValueError, match=r"`paths_per_step` must be 1 or 2\. Received"):
        HybridTransfer(tiny.teacher(), tiny.student(), paths_per_step=paths)


@pytest.mark.parametrize("plus", [None, FitNet])
@pytest.mark.parametrize("paths", [1, 2])
def test_the_images_of_the_teacher_are_made_once_a_step(paths, plus):
    calls = []

    def preprocess(images):
        calls.append(len(images))
        return images

    model = HybridTransfer(
        tiny.teacher(),
        tiny.student(),
        teacher_preprocessing=preprocess,
        paths_per_step=paths,
        plus=plus and plus(),
    )
    model.compile("sgd", CROSS_ENTROPY, run_eagerly=True)
    calls.clear()
    images, labels = tiny.batch(8)
    model.fit(images, labels, batch_size=4, verbose=0)
    assert calls == [4, 4]
