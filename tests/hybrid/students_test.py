"""Students that override methods of `keras.Model`, compared with Keras alone."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tiny
from keras_hybrid import HybridTransfer
from keras_hybrid.baselines import FeatureTransfer
from replicas import strategy

CROSS_ENTROPY = "sparse_categorical_crossentropy"
KERAS = keras.saving.register_keras_serializable("students_test")


def trained_alone_and_hybrid(new, x, y, rate=0.1, steps=2, **compile_args):
    """Logs, weights and evaluations of a student trained alone and with alpha = 0."""
    results = []
    settings = {"loss": CROSS_ENTROPY, **compile_args}
    for alone in (True, False):
        keras.utils.set_random_seed(3)
        student = new()
        model = student if alone else HybridTransfer(tiny.teacher(), student, balance=0)
        model.compile(keras.optimizers.SGD(rate), **settings)
        for _ in range(steps):
            logs = model.train_on_batch(x, y, return_dict=True)
        results.append((logs, student.get_weights(), model.test_on_batch(x, y)))
    return results


def assert_same_training(alone, hybrid):
    (logs, weights, evaluation), (other_logs, other_weights, other_evaluation) = (
        alone,
        hybrid,
    )
    ours = {"student_loss", "student_first_loss", "teacher_first_loss", "balance"}
    assert set(other_logs) == {*logs, *ours}
    for name, value in logs.items():
        assert other_logs[name] == pytest.approx(value, rel=1e-4), name
    for a, b in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert other_evaluation == pytest.approx(evaluation, rel=1e-4)


def network(**kwargs):
    """Input and class probabilities of a chain of strides 2 and 4."""
    image = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="out1", **kwargs)(image)
    x = layers.Conv2D(6, 3, strides=2, padding="same", name="out2", **kwargs)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return image, layers.Dense(4, activation="softmax", name="out")(x)


@KERAS
class Smooth(keras.Model):
    """Adds to `super().compute_loss`, which includes regularisation."""

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return loss + 0.1 * ops.mean(ops.square(y_pred))


@KERAS
class Old(keras.Model):
    """`compute_loss` as before Keras 3.3, with other argument names."""

    def compute_loss(self, images, labels, scores, weights):
        return ops.mean(keras.losses.sparse_categorical_crossentropy(labels, scores))


@KERAS
class Counting(keras.Model):
    """Tracks a metric of its own, as in Keras's guide."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sharpness = keras.metrics.Mean(name="sharpness")

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.sharpness.update_state(ops.max(y_pred, axis=-1))
        return super().compute_metrics(x, y, y_pred, sample_weight)


@KERAS
class Worst(keras.Model):
    """A `test_step` and a `predict_step` of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.own_metric = keras.metrics.Mean(name="worst")

    @property
    def metrics(self):
        return [self.own_metric]

    def test_step(self, data):
        x, y = data
        losses = keras.losses.sparse_categorical_crossentropy(y, self(x, training=False))
        self.own_metric.update_state(ops.max(losses))
        return {"worst": self.own_metric.result(), "images": ops.shape(x)[0]}

    def predict_step(self, data):
        return {"label": ops.argmax(super().predict_step(data), axis=-1)}


REGULARISED = {"kernel_regularizer": "l2", "activity_regularizer": "l2"}


@pytest.mark.parametrize("kind", [Smooth, Old, Counting])
def test_overridden_methods_of_the_student_are_used(kind):
    regularised = {} if kind is Old else REGULARISED  # its own loss leaves them out
    results = trained_alone_and_hybrid(
        lambda: kind(*network(**regularised)), *tiny.batch(), metrics=["accuracy"]
    )
    assert_same_training(*results)


def test_penalties_that_the_students_own_loss_includes_count_once():
    student = Smooth(*network(**REGULARISED))
    model = HybridTransfer(tiny.teacher(), student, balance=0.5)
    model.compile(keras.optimizers.SGD(0.0), loss=CROSS_ENTROPY)
    images, labels = tiny.batch()
    logs = model.train_on_batch(images, labels, return_dict=True)
    y_pred = student(images)
    penalties = float(sum(student.losses))
    assert penalties > 0.01
    cross_entropy = float(keras.losses.SparseCategoricalCrossentropy()(labels, y_pred))
    task = cross_entropy + 0.1 * float(ops.mean(ops.square(y_pred)))
    assert logs["student_loss"] == pytest.approx(task, rel=1e-4)
    hybrid = logs["student_first_loss"] + logs["teacher_first_loss"]
    assert logs["loss"] == pytest.approx(0.5 * hybrid + task + penalties, rel=1e-4)
    evaluation = model.evaluate(images, labels, verbose=0)
    assert evaluation == pytest.approx(task + penalties, rel=1e-4)


@pytest.mark.parametrize("activation", ["softmax", None])
@pytest.mark.parametrize("wider", [True, False])
def test_all_paths_end_in_the_layer_that_makes_the_predictions(wider, activation):
    """Of a fully convolutional student, too: only its `classes` makes probabilities."""
    x = image = keras.Input((32, 32, 3))
    for i in range(1, 4):
        x = layers.Conv2D(4, 3, 2, padding="same", activation="relu", name=f"out{i}")(x)
    x = layers.Conv2D(3, 1, activation=activation, name="classes")(x)
    student = keras.Model(image, layers.UpSampling2D(8)(x) if wider else x)
    model = HybridTransfer(tiny.teacher(), student)
    assert [path.segments[-1].student_end.layer_name for path in model.paths] == [
        "out3"
    ] * 3
    images = tiny.batch(2)[0]
    for path in model.paths if activation else ():
        np.testing.assert_allclose(np.sum(path(images), -1), 1, atol=1e-5)


def test_the_students_own_compile_state_is_kept(tmp_path):
    student = Smooth(*network())
    student.compile("adam", loss="mse", metrics=["mae"])
    before = {k: v for k, v in vars(student).items() if k.startswith("_compile")}
    model = HybridTransfer(tiny.teacher(), student)
    model.compile("sgd", loss=CROSS_ENTROPY)
    images, labels = tiny.batch()
    model.fit(images, labels, validation_data=(images, labels), verbose=0)
    assert all(vars(student)[name] is value for name, value in before.items())
    truth = np.zeros((8, 4))
    logs = student.evaluate(images, truth, verbose=0, return_dict=True)
    expected = np.mean(np.square(student.predict(images, verbose=0)))
    assert logs["loss"] == pytest.approx(expected + 0.1 * expected, rel=1e-4)
    model.save(tmp_path / "run.keras")
    loaded = keras.saving.load_model(tmp_path / "run.keras")
    logs = [m.evaluate(images, labels, verbose=0) for m in (model, loaded)]
    assert logs[0] == logs[1]
    loaded.fit(images, labels, verbose=0)


def test_own_test_step_and_predict_step_of_the_student_are_used():
    images, labels = tiny.batch()
    student = Worst(*network())
    student.compile("sgd", loss=CROSS_ENTROPY)
    expected = student.evaluate(images, labels, verbose=0, return_dict=True)
    expected_list = student.evaluate(images, labels, verbose=0)
    model = HybridTransfer(tiny.teacher(), student)
    model.compile(keras.optimizers.SGD(0.0), loss=CROSS_ENTROPY, metrics=["accuracy"])
    history = model.fit(images, labels, validation_data=(images, labels), verbose=0)
    assert history.history["val_worst"] == [expected["worst"]]
    assert model.evaluate(images, labels, verbose=0, return_dict=True) == expected
    assert model.evaluate(images, labels, verbose=0) == expected_list
    assert list(model.predict(images, verbose=0)) == ["label"]


def test_an_own_loss_without_a_compiled_loss_raises_an_error():
    model = HybridTransfer(tiny.teacher(), Smooth(*network(**REGULARISED)))
    model.compile("sgd")
    with pytest.raises(ValueError, match="No loss to compute"):
        model.train_on_batch(*tiny.batch())


def test_own_loss_with_several_outputs_on_two_replicas():
    """Each output updates a metric, and the replicas synchronise at each update."""

    class Deferring(keras.Model):
        def compute_loss(self, *args, **kwargs):
            return super().compute_loss(*args, **kwargs)

    images, labels = tiny.batch()
    histories = []
    for replicas in (1, 2):
        with strategy(replicas).scope():
            keras.utils.set_random_seed(0)
            image, scores = network(**REGULARISED)
            outputs = [scores, layers.Dense(1, name="size")(scores)]
            model = HybridTransfer(tiny.teacher(), Deferring(image, outputs))
            model.compile(keras.optimizers.SGD(0.1), loss=[CROSS_ENTROPY, "mse"])
        data = images, [labels, labels * 1.0]
        fit = model.fit(*data, batch_size=8, validation_data=data, verbose=0)
        histories.append(fit.history)
    for name, (value,) in histories[0].items():
        assert histories[1][name][0] == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize("model", [HybridTransfer, FeatureTransfer])
def test_an_own_train_step_of_the_student_is_rejected(model):
    class Own(keras.Model):
        def train_step(self, data):
            return {"loss": 0.0}

    options = {"method": "at"} if model is FeatureTransfer else {}
    message = "`student` must not have a `train_step` .*`compute_loss.*Received: .*Own"
    with pytest.raises(ValueError, match=message):
        model(tiny.teacher(), Own(*network()), **options)
    model(Own(*network()), tiny.student(), **options)  # the teacher's is not used


def test_a_functional_student_with_backbone_attribute_trains_all_layers():
    """Attributes named `backbone` and `head` do not hide the layer between them."""

    def new():
        backbone = keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                layers.Conv2D(4, 3, strides=2, padding="same"),
                layers.Conv2D(4, 3, strides=2, padding="same"),
            ]
        )
        head = keras.Sequential(
            [keras.Input((6,)), layers.Dense(4, activation="softmax")]
        )
        image = keras.Input((32, 32, 3))
        x = layers.Conv2D(6, 1, name="neck")(backbone(image))
        student = keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))
        student.backbone, student.head = backbone, head
        return student

    assert_same_training(*trained_alone_and_hybrid(new, *tiny.batch()))


@pytest.mark.parametrize("outer", ["uint8", "float16"])
def test_a_nested_student_casts_its_input(outer):
    def new():
        image = keras.Input((32, 32, 3), dtype=outer)
        return keras.Model(image, keras.Model(*network())(image))

    images, labels = tiny.batch()
    images = (images * 4 + 4).astype("uint8")
    assert_same_training(*trained_alone_and_hybrid(new, images, labels))


def test_a_layer_called_several_times_adds_each_penalty():
    def new():
        image = keras.Input((32, 32, 3))
        twice = layers.Conv2D(3, 3, padding="same", activity_regularizer="l2")
        x = layers.Conv2D(4, 3, strides=2, padding="same")(twice(twice(image)))
        x = layers.Conv2D(3, 3, strides=2, padding="same")(x)
        x = layers.GlobalAveragePooling2D()(twice(x))
        return keras.Model(image, layers.Dense(4, activation="softmax")(x))

    images, labels = tiny.batch()
    assert_same_training(*trained_alone_and_hybrid(new, images, labels))
    student = new()
    path = HybridTransfer(tiny.teacher(), student).paths[-1]
    for _ in range(2):
        path(images)
        assert len(student.losses) == 3


BATCHES = {
    "extra keys": lambda x: {"file": np.arange(8), "image": x, "z": np.ones(8)},
    "input name": lambda x: {"image": x},
    "list": lambda x: [x],
}


# Keras warns of these for the student alone.
@pytest.mark.filterwarnings("ignore:(?s).*structure of `inputs` doesn't match")
@pytest.mark.parametrize("case", BATCHES)
def test_images_are_selected_from_a_batch_as_in_keras(case):
    images, labels = tiny.batch()
    x = BATCHES[case](images)
    new = lambda: keras.Model(*network())  # noqa: E731
    alone, hybrid = trained_alone_and_hybrid(new, x, labels)
    assert_same_training(alone, hybrid)
    assert_same_training(trained_alone_and_hybrid(new, images, labels)[0], hybrid)


def test_grey_images_without_a_channel_axis():
    def new():
        image = keras.Input((32, 32, 1))
        x = layers.Concatenate()([image] * 3)
        return keras.Model(image, keras.Model(*network())(x))

    images, labels = tiny.batch()
    teacher = keras.layers.Concatenate()
    logs = []
    for x in (images[..., 0], images[..., :1]):
        keras.utils.set_random_seed(3)
        model = HybridTransfer(
            tiny.teacher(), new(), teacher_preprocessing=lambda x: teacher([x] * 3)
        )
        model.compile("sgd", loss=CROSS_ENTROPY)
        logs.append(model.train_on_batch(x, labels, return_dict=True))
    assert logs[0] == logs[1]


OTHERS = {
    "size": (lambda x: x[:, :24], r"expected shape=\(None, 32, 32, 3\), found .*24, 32"),
    "channels": (lambda x: x[..., :1], "axis -1 of input shape to have value 3"),
    "name": (lambda x: {"picture": x}, 'Missing data for input "image"'),
    "two": (lambda x: [x, x], "expects 1 named input.* it received 2"),
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("own_loss", [True, False])
def test_images_that_do_not_fit_raise_the_same_error_as_in_keras(case, own_loss):
    change, message = OTHERS[case]
    images, labels = tiny.batch()
    student = (Old if own_loss else keras.Model)(*network())
    model = HybridTransfer(tiny.teacher(), student)
    for each in (student, model):
        each.compile("sgd", loss=None if own_loss else CROSS_ENTROPY)
        with pytest.raises(ValueError, match=message):
            each.fit(change(images), labels, verbose=0)


def one_output():
    return keras.Model(*network())


def one_named_output():
    image, scores = network()
    return keras.Model(image, {"out": scores})


def outputs_in_a_list():
    image, scores = network()
    return keras.Model(image, [scores])


def two_outputs():
    image, scores = network()
    return keras.Model(image, [scores, layers.Dense(1, name="size")(scores)])


def named_outputs():
    image, scores = network()
    return keras.Model(
        image, {"out": scores, "size": layers.Dense(1, name="size")(scores)}
    )


NAMED = {
    "loss": {"out": CROSS_ENTROPY, "size": "mse"},
    "loss_weights": {"out": 1.0, "size": 0.3},
    "metrics": {"out": ["accuracy"], "size": "mae"},
}
OUTPUTS = {
    "one named output": (
        one_named_output,
        lambda y: {"out": y},
        {"loss": {"out": CROSS_ENTROPY}, "metrics": {"out": "accuracy"}},
    ),
    "one output with a named loss": (
        one_output,
        lambda y: y,
        {"loss": {"out": CROSS_ENTROPY}, "metrics": {"out": ["accuracy"]}},
    ),
    "list of one": (outputs_in_a_list, lambda y: y, {"metrics": ["accuracy"]}),
    "two": (
        two_outputs,
        lambda y: [y, y * 1.0],
        {"loss": [CROSS_ENTROPY, "mse"], "loss_weights": [1.0, 0.3]},
    ),
    "two outputs with named targets": (
        two_outputs,
        lambda y: {"out": y, "size": y * 1.0},
        NAMED,
    ),
    "named": (named_outputs, lambda y: {"out": y, "size": y * 1.0}, NAMED),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs_and_targets_in_every_structure(case):
    new, targets, settings = OUTPUTS[case]
    images, labels = tiny.batch()
    assert_same_training(
        *trained_alone_and_hybrid(new, images, targets(labels), **settings)
    )


class Margin(keras.metrics.Mean):
    """A metric with a required argument and no `get_config`."""

    def __init__(self, scale, **kwargs):
        super().__init__(name="margin", **kwargs)
        self.scale = scale

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(self.scale * ops.max(y_pred, axis=-1), sample_weight)


@pytest.mark.parametrize("replicas", [1, 2])
def test_track_paths_with_a_metric_without_a_config(replicas):
    with strategy(replicas).scope():
        model = HybridTransfer(
            tiny.teacher(), tiny.student(batch_norm=False), track_paths=True
        )
        model.compile(keras.optimizers.SGD(0.0), CROSS_ENTROPY, metrics=[Margin(2.0)])
    images, labels = tiny.batch()
    history = model.fit(images, labels, verbose=0).history
    for path, name in zip(model.paths, ("student_first_", "teacher_first_", "")):
        expected = 2 * np.max(path(images), axis=-1).mean()
        assert history[f"{name}margin"] == pytest.approx([expected], rel=1e-5)
