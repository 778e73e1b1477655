"""Knowledge distillation of any two classifiers, compared with NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tiny
from keras_hybrid.baselines import FeatureTransfer
from keras_hybrid.baselines.knowledge_distillation import KnowledgeDistillation
from keras_hybrid.baselines.logits import logits_of
from keras_hybrid.baselines.output_kind import LOGITS, SIGMOID, SOFTMAX, output_kind

SOFTMAXES = {
    "inside a layer": lambda z: layers.Activation("softmax")(z),
    "layer": lambda z: layers.Softmax()(z),
    "op": lambda z: ops.softmax(z),
    "reshaped": lambda z: layers.Reshape((5,))(layers.Softmax()(z)),
    "identity": lambda z: layers.Identity()(layers.Softmax()(z)),
    "dropout": lambda z: layers.Dropout(0.5)(layers.Softmax()(z)),
    "float32": lambda z: layers.Activation("linear", dtype="float32")(ops.softmax(z)),
    "lambda": lambda z: layers.Lambda(lambda z: ops.softmax(z))(z),
    "by hand": lambda z: ops.exp(z) / ops.sum(ops.exp(z), axis=-1, keepdims=True),
}
RELU = lambda z: layers.ReLU()(z)  # noqa: E731
LOGIT_ENDS = {"none": lambda z: z, "log": ops.log_softmax, "relu": RELU}


def classifier(end, classes=5, scale=8.0, seed=0, **dense):
    """A classifier of images (8, 8, 3): logits from layer "z", followed by `end`."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, activation="tanh")(image)
    x = layers.GlobalAveragePooling2D()(x)
    start = keras.initializers.RandomNormal(stddev=scale)
    z = layers.Dense(classes, kernel_initializer=start, name="z", **dense)(x)
    return keras.Model(image, end(z))


def images(count=6):
    return np.random.default_rng(3).normal(size=(count, 8, 8, 3)).astype("float32")


def logits_before_end(model):
    z = keras.Model(model.input, model.get_layer("z").output)(images())
    return ops.convert_to_numpy(z).astype("float64")


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def divergence(teacher, student):
    """9 KL(softmax(teacher / 3), softmax(student / 3)) in float64."""
    p, q = log_softmax(teacher / 3), log_softmax(student / 3)
    return 9 * np.mean(np.sum(np.exp(p) * (p - q), axis=-1))


def kd(teacher, student, preprocess=None):
    taps = logits_of(teacher, student, preprocess)
    loss = KnowledgeDistillation()
    loss.build(*(tap.shapes for tap in taps))
    return float(loss(*(tap(images(), training=False)[1] for tap in taps)))


@pytest.mark.parametrize("name", SOFTMAXES)
def test_softmax_outputs_are_compared_by_their_logits(name):
    ends = SOFTMAXES[name]
    with_softmax, other = classifier(ends), classifier(lambda z: z, seed=1)
    expected = divergence(logits_before_end(with_softmax), logits_before_end(other))
    assert kd(with_softmax, other) == pytest.approx(expected, rel=1e-4)
    expected = divergence(logits_before_end(other), logits_before_end(with_softmax))
    assert kd(other, with_softmax) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", LOGIT_ENDS)
def test_logit_outputs_are_compared_as_they_are(name):
    teacher, student = (classifier(LOGIT_ENDS[name], seed=seed) for seed in (0, 1))
    z = [logits_before_end(teacher), logits_before_end(student)]
    if name == "relu":
        z = [np.maximum(z, 0) for z in z]
    assert kd(teacher, student) == pytest.approx(divergence(*z), rel=1e-4)


@pytest.mark.parametrize("start", ["zeros", "ones"])
def test_logits_within_0_and_1_are_not_taken_for_sigmoids(start):
    # All in 0..1 by chance, as may happen with a newly initialised head.
    model = classifier(RELU, classes=2, scale=1e-3, bias_initializer=start)
    model.get_layer("z").bias.assign(0.3 * model.get_layer("z").bias)
    outputs = ops.convert_to_numpy(model(images()))
    assert outputs.min() >= 0
    assert outputs.max() < 1
    assert output_kind(model, "student", images()) == (LOGITS, (None, 2))


def test_softmax_of_many_classes_is_recognised_in_float16():
    keras.config.set_dtype_policy("mixed_float16")
    model = classifier(ops.softmax, classes=1000)
    assert output_kind(model, "teacher", images()) == (SOFTMAX, (None, 1000))


def test_kd_of_segmenters():
    def segmenter(end, seed):
        keras.utils.set_random_seed(seed)
        image = keras.Input((None, None, 3))
        z = layers.Conv2D(4, 3, padding="same", name="z")(image)
        return keras.Model(image, end(z))

    teacher, student = segmenter(ops.softmax, 0), segmenter(layers.Identity(), 1)
    expected = divergence(logits_before_end(teacher), logits_before_end(student))
    assert kd(teacher, student) == pytest.approx(expected, rel=1e-4)


def binary_divergence(teacher, student):
    """9 times the mean binary KL divergence over images and classes, at T = 3."""
    p, q = (1 / (1 + np.exp(-z / 3)) for z in (teacher, student))
    return 9 * np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))


@pytest.mark.parametrize("classes", [1, 5])
def test_sigmoids_are_compared_class_by_class(classes):
    teacher = classifier(ops.sigmoid, classes, scale=2.0)
    for end in (ops.sigmoid, layers.Identity()):
        student = classifier(end, classes, scale=2.0, seed=1)
        expected = binary_divergence(
            logits_before_end(teacher), logits_before_end(student)
        )
        assert kd(teacher, student) == pytest.approx(expected, rel=1e-4)


def test_a_softmax_and_a_sigmoid_cannot_be_compared():
    with pytest.raises(ValueError, match="with a softmax and student=.* with a sigmoid"):
        kd(classifier(ops.softmax), classifier(ops.sigmoid))


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
@pytest.mark.parametrize("end", [ops.softmax, layers.Identity()])
def test_a_single_class_is_rejected(end):
    with pytest.raises(ValueError, match="at least two"):
        kd(classifier(end, classes=1), classifier(end, classes=1))


def test_saturated_sigmoids_are_not_taken_for_a_softmax():
    image = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(image)
    dense = layers.Dense(1, activation="sigmoid", kernel_initializer="ones")
    model = keras.Model(image, dense(x))
    bright = 100 + images()
    np.testing.assert_array_equal(model(bright), 1)
    assert output_kind(model, "teacher", bright) == (SIGMOID, (None, 1))


def test_a_saturated_softmax_has_a_finite_loss_and_gradient():
    teacher, student = (classifier(ops.softmax, scale=3000.0, seed=s) for s in (0, 1))
    taps = logits_of(teacher, student, None)
    with tf.GradientTape() as tape:
        (of_teacher, of_student) = (tap(images(), training=False)[1] for tap in taps)
        loss = 1e4 * KnowledgeDistillation()(of_teacher, of_student)
    assert min(ops.convert_to_numpy(student(images())).min(-1)) == 0
    assert loss > 0
    for gradient in tape.gradient(loss, [v.value for v in student.trainable_variables]):
        assert np.isfinite(gradient).all()


def test_constructing_kd_does_not_change_the_networks():
    teacher, student = tiny.teacher(), tiny.student(classes=5)
    before = [ops.copy(v) for v in (*teacher.variables, *student.variables)]
    FeatureTransfer(teacher, student, "kd")
    for variable, value in zip((*teacher.variables, *student.variables), before):
        np.testing.assert_array_equal(variable, value)


@keras.saving.register_keras_serializable("logits_test")
class Subclassed(keras.Model):
    """A subclassed model, whose graph cannot be inspected, with a single scale."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.classify = layers.Dense(4, kernel_initializer="normal", name="z")

    def build(self, input_shape):
        self.classify.build((None, input_shape[-1]))

    def call(self, x):
        return ops.softmax(self.classify(ops.mean(x, axis=(1, 2))))


def test_kd_with_a_subclassed_teacher(tmp_path):
    x, labels = tiny.batch()
    teacher = Subclassed()
    teacher(x)
    z = x.mean(axis=(1, 2)) @ ops.convert_to_numpy(teacher.classify.kernel)
    student = tiny.student(batch_norm=False)
    q = ops.convert_to_numpy(student(x)).astype("float64")
    model = FeatureTransfer(teacher, student, "kd")
    model.compile(keras.optimizers.SGD(0.0), loss="sparse_categorical_crossentropy")
    logs = model.train_on_batch(x, labels, return_dict=True)
    assert logs["transfer_loss"] == pytest.approx(divergence(z, np.log(q)), rel=1e-4)
    model.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")
    again = loaded.train_on_batch(x, labels, return_dict=True)
    assert again["transfer_loss"] == pytest.approx(logs["transfer_loss"], rel=1e-5)


def test_teacher_preprocessing_is_applied_to_the_images():
    teacher, student = classifier(ops.softmax), classifier(ops.softmax, seed=1)
    with pytest.raises(ValueError, match="`teacher` must run on the student's images"):
        kd(tiny.teacher(), student)
    half = layers.Resizing(4, 4)
    image = keras.Input((4, 4, 3))
    small = keras.Model(image, layers.Dense(5)(layers.Flatten()(image)))
    assert [tap.shape for tap in logits_of(small, student, half)] == [(None, 5)] * 2
    assert [tap.kind for tap in logits_of(teacher, student, None)] == [SOFTMAX] * 2


def test_kd_rejects_networks_that_are_not_image_models_of_one_output():
    with pytest.raises(TypeError, match="`teacher` must be a keras.Model"):
        FeatureTransfer(layers.Dense(4), tiny.student(), "kd")
    table = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
    with pytest.raises(ValueError, match="`teacher` must take one batch of images"):
        FeatureTransfer(table, tiny.student(), "kd")
    one, two = tiny.student(), tiny.student()
    several = keras.Model(one.input, [one.output, one.get_layer("pool").output])
    with pytest.raises(ValueError, match="networks of one output"):
        FeatureTransfer(several, two, "kd")
