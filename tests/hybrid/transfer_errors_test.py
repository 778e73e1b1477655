"""The constructor rejects a pair of networks that does not fit and states the reason."""

import keras
import pytest
import tensorflow as tf
from keras import layers

import tiny
from keras_hybrid import HybridTransfer
from keras_hybrid.baselines import (
    AttentionTransfer,
    FeatureTransfer,
    KnowledgeDistillation,
)
from keras_hybrid.hybrid.adapters import Adapter


def assert_rejected(message, teacher=None, student=None, error=ValueError, **options):
    teacher, student = teacher or tiny.teacher(), student or tiny.student()
    with pytest.raises(error, match=message):
        HybridTransfer(teacher, student, **options)


def convolutional(*strides, channels=3):
    x = image = keras.Input((64, 64, channels))
    for i, stride in enumerate(strides):
        x = layers.Conv2D(4, 3, strides=stride, padding="same", name=f"conv{i}")(x)
    return keras.Model(image, x, name="convolutional")


class Opaque(keras.Model):
    def call(self, x):
        return x


def test_networks_that_are_not_keras_models():
    assert_rejected(
        "`teacher` must be a keras.Model. Received: 'x'", teacher="x", error=TypeError
    )
    assert_rejected(
        "`student` must be a keras.Model", student=layers.Dense(2), error=TypeError
    )


def test_a_teacher_that_is_not_functional():
    assert_rejected("`teacher` must be a Functional .* `.backbone`", teacher=Opaque())


def test_unbuilt_students():
    assert_rejected(
        "`student` must be built", student=keras.Sequential([layers.Conv2D(3, 3)])
    )

    class Parts(Opaque):
        def __init__(self):
            super().__init__()
            self.backbone = convolutional(2, 2)
            self.head = layers.Conv2D(2, 1, name="unbuilt_head")

    assert_rejected("`student` must be built: .*unbuilt_head", student=Parts())


class Block(layers.Layer):
    """Its layers without weights are not built until they are called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.pad, self.join = layers.ZeroPadding2D(), layers.Concatenate()
        self.augment = keras.Sequential([layers.RandomFlip()])
        self.convolution = layers.Conv2D(4, 3, strides=2)

    def build(self, shape):
        self.convolution.build((*shape[:-1], 6))

    def call(self, x):
        return self.convolution(self.pad(self.join([x, x])))

    def compute_output_shape(self, shape):
        return (shape[0], shape[1] // 2, shape[2] // 2, 4)


def test_unbuilt_layers_without_weights_are_accepted():
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(3, 3, strides=2, padding="same")(Block()(image))
    teacher = keras.Model(image, x)
    assert not all(layer.built for layer in teacher._flatten_layers())
    model = HybridTransfer(teacher, tiny.student())
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    model.train_on_batch(*tiny.batch())


class Parts(keras.Model):
    def __init__(self, head, neck=None):
        super().__init__()
        self.backbone = convolutional(2, 2)
        self.neck, self.head = neck, head

    def call(self, images):
        return self.head(self.neck(self.backbone(images)))


def test_a_student_with_layers_between_backbone_and_head():
    head, neck = layers.Conv2D(2, 1), layers.Conv2D(5, 1, name="neck")
    neck.build((None, None, None, 4))
    head.build((None, None, None, 5))
    assert_rejected(
        "its `.head` on the features .*Parts. with .'neck'.", student=Parts(head, neck)
    )
    student = Parts(head)
    del student.head
    assert_rejected("`student` must have a `.head`", student=student)


def test_no_common_stride():
    with pytest.raises(ValueError, match="two strides in common") as error:
        HybridTransfer(convolutional(3, 3), convolutional(2, 2))
    # The message lists the stages of both networks.
    assert str(error.value).count("convolutional") == 2
    assert "conv1" in str(error.value)


def test_one_common_stride_is_not_enough():
    assert_rejected(
        r"common strides \[4\]", teacher=convolutional(4, 4), student=convolutional(2, 2)
    )


@pytest.mark.parametrize(
    "bad", [(3,), (4, 2), (2, 8), (2, 2), (), "2", 2, (2, "out1"), (64,)]
)
def test_invalid_switch_points(bad):
    assert_rejected(
        r"`switch_points` must be increasing strides out of \(2, 4\)", switch_points=bad
    )


def test_switch_points_with_an_unknown_layer():
    pairs = [("out1", "out1"), ("nothing", "out2")]
    assert_rejected(
        "`switch_points` must name layers of the teacher", switch_points=pairs
    )


def test_switch_points_at_a_layer_that_is_not_a_cut():
    pairs = [("conv1", "out1"), ("out2", "out2")]
    assert_rejected("holds a single map. Received: 'conv1'", switch_points=pairs)
    assert_rejected(
        "holds a single map. Received: 'pool'",
        switch_points=[("out1", "out1"), ("out2", "pool")],
    )


@pytest.mark.parametrize(
    "pairs",
    [
        [("out2", "out1"), ("out1", "out2")],
        [("out1", "out2"), ("out2", "out1")],
        [("out1", "out1"), ("out1", "out2")],
    ],
)
def test_switch_points_out_of_order(pairs):
    assert_rejected("must go from the input to the output", switch_points=pairs)


def test_switch_points_that_are_not_pairs():
    assert_rejected(
        "or pairs", switch_points=[("out1", "out1", "out1"), ("out2", "out2")]
    )
    assert_rejected("last, the pair of the joint", switch_points=[("out1", "out1")])


def test_different_numbers_of_image_channels():
    assert_rejected(
        "the same number of channels", teacher=convolutional(2, 2, channels=1)
    )
    HybridTransfer(
        convolutional(2, 2, channels=1),
        tiny.student(),
        teacher_preprocessing=lambda x: keras.ops.mean(x, axis=-1, keepdims=True),
    )
    assert_rejected(
        r"Received images of shape \(1, 32, 32, 1\)",
        teacher_preprocessing=lambda x: keras.ops.mean(x, axis=-1, keepdims=True),
    )


def test_the_same_model_as_teacher_and_student():
    model = tiny.student()
    assert_rejected("Received the same one twice", teacher=model, student=model)


def test_teacher_and_student_that_share_weights():
    student = tiny.student()
    teacher = keras.Model(student.input, student.get_layer("out3").output)
    assert_rejected("must not share weights", teacher=teacher, student=student)


@pytest.mark.parametrize("bad", ["sometimes", -1, None, float("inf")])
def test_invalid_balance(bad):
    assert_rejected("`balance` must be", balance=bad)


def test_invalid_student_batch_norm():
    assert_rejected(
        '`student_batch_norm` must be "plain" or "all"', student_batch_norm="none"
    )


def test_invalid_teacher_preprocessing():
    assert_rejected(
        "`teacher_preprocessing` must be", teacher_preprocessing=3, error=TypeError
    )


class Doubling(Adapter):
    def call(self, x, size):
        return 2 * super().call(x, size)


@pytest.mark.parametrize("bad", [None, "Adapter", 3, Adapter(4)])
def test_an_adapter_that_is_not_callable(bad):
    assert_rejected(
        "`adapter` must be a class or a function", adapter=bad, error=TypeError
    )


def test_an_adapter_that_does_not_return_a_layer():
    assert_rejected(
        "which made 6", adapter=lambda channels, *_, **__: channels, error=TypeError
    )


def test_an_adapter_with_wrong_output_channels_or_size():
    def halved(channels, resizes, **kwargs):
        return Doubling(channels // 2, resizes, **kwargs)

    def unresized(channels, resizes, **kwargs):
        return Doubling(channels, resizes=False, **kwargs)

    assert_rejected(r"for channels=6 makes \(1, 2, 2, 3\)", adapter=halved)
    x = image = keras.Input((32, 32, 3))
    for _ in range(3):
        x = layers.Conv2D(4, 3, strides=2)(x)  # 15, 7 and 3 pixels, not 16, 8 and 4
    teacher = keras.Model(image, x)
    assert_rejected(r"with size=\(3, 3\)", teacher=teacher, adapter=unresized)


def test_an_adapter_that_is_called_otherwise():
    assert_rejected(
        "`adapter` must be .* whose layer fails with: .*'size'",
        adapter=lambda channels, resizes, **kwargs: layers.Conv2D(channels, 1, **kwargs),
        error=TypeError,
    )


class Rescaled(keras.Model):
    """Its `call` does more than its parts, in inference as well or in training only."""

    def __init__(self, factor, always=True):
        super().__init__()
        self.factor, self.always = factor, always
        self.backbone = convolutional(2, 2)
        self.head = keras.Sequential([layers.Dropout(0.5), layers.Dense(2)])
        self(keras.Input((64, 64, 3)))

    def call(self, x, training=None):
        x = self.factor * x if self.always or training else x
        return self.head(self.backbone(x, training=training), training=training)


@pytest.mark.parametrize("always", [True, False])
def test_a_network_whose_call_does_more_than_its_parts(always):
    message = "`{}` must be only its `.head` .* move what its `call` does besides"
    more = Rescaled(1 / 255, always)
    assert_rejected(message.format("student"), student=more)
    with pytest.raises(ValueError, match=message.format("student")):
        FeatureTransfer(tiny.teacher(), more, "at")
    same = Rescaled(1.0, always)
    HybridTransfer(convolutional(2, 2), same)
    kd = KnowledgeDistillation(1.0)
    assert_rejected(message.format("teacher"), more, same, plus=kd)
    assert more.trainable
    HybridTransfer(more, same)  # its head is not used


def test_a_random_call_is_no_reason_to_reject():
    class Noise(layers.Layer):
        def call(self, x, training=None):
            return x + tf.random.normal(tf.shape(x)) if training else x

    student = Rescaled(1.0)
    student.head.add(Noise())
    HybridTransfer(convolutional(2, 2), student)


def test_a_teacher_whose_head_is_needed_and_missing():
    teacher = Rescaled(1.0)
    del teacher.head
    HybridTransfer(teacher, convolutional(2, 2))
    kd = KnowledgeDistillation(1.0)
    assert_rejected("`teacher` must have a `.head`", teacher=teacher, plus=kd)


def test_images_that_are_too_small():
    x = image = keras.Input((None, None, 3))
    for _ in range(3):
        x = layers.Conv2D(4, 7, strides=2)(x)
    assert_rejected("must be larger for", teacher=keras.Model(image, x, name="hungry"))


def test_the_teacher_of_a_rejected_pair_is_not_frozen():
    teacher, plus = tiny.teacher(), AttentionTransfer(1.0)
    assert_rejected("`balance` must be", teacher=teacher, balance="x")
    assert_rejected(
        "`adapter` must be", teacher=teacher, adapter=3, plus=plus, error=TypeError
    )
    assert teacher.trainable
    HybridTransfer(teacher, tiny.student(), plus=plus)  # which is not used up


def test_images_with_their_channels_first():
    image = keras.Input((3, 32, 32))
    x = layers.Conv2D(4, 3, strides=2, data_format="channels_first")(image)
    teacher = keras.Model(image, layers.Flatten()(x))
    with pytest.raises(ValueError, match=r"\(3, 32, 32\), which seem to have their chan"):
        HybridTransfer(teacher, tiny.student())


def test_a_network_with_few_cuts_triggers_a_warning():
    nasnet = keras.applications.NASNetMobile(weights=None, input_shape=(64, 64, 3))
    student = keras.applications.MobileNet(
        weights=None, input_shape=(64, 64, 3), alpha=0.25
    )
    with pytest.warns(UserWarning, match="between strides 2 and 32") as caught:
        model = HybridTransfer(nasnet, student)
    assert caught[0].filename == __file__
    assert [segment.end.stride for segment in model.paths[0].segments] == [2, 32]


def test_a_loss_for_each_image():
    model = HybridTransfer(tiny.teacher(), tiny.student())
    loss = keras.losses.SparseCategoricalCrossentropy(reduction="none")
    with pytest.raises(ValueError, match="its `reduction` at .* reduction='none'"):
        model.compile("sgd", loss)


def test_training_without_a_loss():
    model = HybridTransfer(tiny.teacher(), tiny.student())
    model.compile("sgd")
    with pytest.raises(ValueError, match="No loss to compute"):
        model.train_on_batch(*tiny.batch())
