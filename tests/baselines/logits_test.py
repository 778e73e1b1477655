"""KD of any two classifiers, against NumPy on what goes into their last function."""

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
    """Ends in `end` of what the layer "z" makes of images (8, 8, 3)."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, activation="tanh")(image)
    x = layers.GlobalAveragePooling2D()(x)
    start = keras.initializers.RandomNormal(stddev=scale)
    z = layers.Dense(classes, kernel_initializer=start, name="z", **dense)(x)
    return keras.Model(image, end(z))


def images(count=6):
    return np.random.default_rng(3).normal(size=(count, 8, 8, 3)).astype("float32")


def z_of(model):
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
def test_probabilities_are_not_taken_for_logits(name):
    ends = SOFTMAXES[name]
    with_softmax, other = classifier(ends), classifier(lambda z: z, seed=1)
    expected = divergence(z_of(with_softmax), z_of(other))
    assert kd(with_softmax, other) == pytest.approx(expected, rel=1e-4)
    expected = divergence(z_of(other), z_of(with_softmax))
    assert kd(other, with_softmax) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", LOGIT_ENDS)
def test_logits_are_not_taken_for_probabilities(name):
    teacher, student = (classifier(LOGIT_ENDS[name], seed=seed) for seed in (0, 1))
    z = [z_of(teacher), z_of(student)]
    if name == "relu":
        z = [np.maximum(z, 0) for z in z]
    assert kd(teacher, student) == pytest.approx(divergence(*z), rel=1e-4)


@pytest.mark.parametrize("start", ["zeros", "ones"])
def test_small_logits_of_two_classes_are_no_sigmoids(start):
    # Within 0..1 by chance, as the heads of students at their start may be.
    model = classifier(RELU, classes=2, scale=1e-3, bias_initializer=start)
    model.get_layer("z").bias.assign(0.3 * model.get_layer("z").bias)
    outputs = ops.convert_to_numpy(model(images()))
    assert outputs.min() >= 0
    assert outputs.max() < 1
    assert output_kind(model, "student", images()) == (LOGITS, (None, 2))


def test_a_softmax_of_many_classes_in_float16():
    keras.config.set_dtype_policy("mixed_float16")
    model = classifier(ops.softmax, classes=1000)
    assert output_kind(model, "teacher", images()) == (SOFTMAX, (None, 1000))


def test_maps_of_classes():
    def segmenter(end, seed):
        keras.utils.set_random_seed(seed)
        image = keras.Input((None, None, 3))
        z = layers.Conv2D(4, 3, padding="same", name="z")(image)
        return keras.Model(image, end(z))

    teacher, student = segmenter(ops.softmax, 0), segmenter(layers.Identity(), 1)
    expected = divergence(z_of(teacher), z_of(student))
    assert kd(teacher, student) == pytest.approx(expected, rel=1e-4)


def binary_divergence(teacher, student):
    """9 times the mean over images and classes of a KL of two outcomes."""
    p, q = (1 / (1 + np.exp(-z / 3)) for z in (teacher, student))
    return 9 * np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))


@pytest.mark.parametrize("classes", [1, 5])
def test_sigmoids_are_compared_class_by_class(classes):
    teacher = classifier(ops.sigmoid, classes, scale=2.0)
    for end in (ops.sigmoid, layers.Identity()):
        student = classifier(end, classes, scale=2.0, seed=1)
        expected = binary_divergence(z_of(teacher), z_of(student))
        assert kd(teacher, student) == pytest.approx(expected, rel=1e-4)


def test_a_sigmoid_and_a_softmax_are_no_pair():
    with pytest.raises(ValueError, match="with a softmax and student=.* with a sigmoid"):
        kd(classifier(ops.softmax), classifier(ops.sigmoid))


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
@pytest.mark.parametrize("end", [ops.softmax, layers.Identity()])
def test_one_class_is_nothing_to_compare(end):
    with pytest.raises(ValueError, match="at least two"):
        kd(classifier(end, classes=1), classifier(end, classes=1))


def test_sigmoids_that_are_1_on_every_image_are_no_softmax():
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


def test_what_the_outcome_is_of_leaves_no_trace():
    teacher, student = tiny.teacher(), tiny.student(classes=5)
    before = [ops.copy(v) for v in (*teacher.variables, *student.variables)]
    FeatureTransfer(teacher, student, "kd")
    for variable, value in zip((*teacher.variables, *student.variables), before):
        np.testing.assert_array_equal(variable, value)


@keras.saving.register_keras_serializable("logits_test")
class Subclassed(keras.Model):
    """At a single scale, in a graph that nobody sees."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.classify = layers.Dense(4, kernel_initializer="normal", name="z")

    def build(self, input_shape):
        self.classify.build((None, input_shape[-1]))

    def call(self, x):
        return ops.softmax(self.classify(ops.mean(x, axis=(1, 2))))


def test_any_graph_will_do(tmp_path):
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


def test_images_go_through_the_preprocessing():
    teacher, student = classifier(ops.softmax), classifier(ops.softmax, seed=1)
    with pytest.raises(ValueError, match="`teacher` must run on the student's images"):
        kd(tiny.teacher(), student)
    half = layers.Resizing(4, 4)
    image = keras.Input((4, 4, 3))
    small = keras.Model(image, layers.Dense(5)(layers.Flatten()(image)))
    assert [tap.shape for tap in logits_of(small, student, half)] == [(None, 5)] * 2
    assert [tap.kind for tap in logits_of(teacher, student, None)] == [SOFTMAX] * 2


def test_what_is_no_model_of_images():
    with pytest.raises(TypeError, match="`teacher` must be a keras.Model"):
        FeatureTransfer(layers.Dense(4), tiny.student(), "kd")
    table = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
    with pytest.raises(ValueError, match="`teacher` must take one batch of images"):
        FeatureTransfer(table, tiny.student(), "kd")
    one, two = tiny.student(), tiny.student()
    several = keras.Model(one.input, [one.output, one.get_layer("pool").output])
    with pytest.raises(ValueError, match="networks of one output"):
        FeatureTransfer(several, two, "kd")
