"""A pair that does not fit is refused by the constructor, with the reason."""

import keras
import pytest
from keras import layers

import tiny
from keras_hybrid import HybridTransfer
from keras_hybrid.hybrid.adapters import Adapter


def refused(message, teacher=None, student=None, error=ValueError, **options):
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


def test_not_keras_models():
    refused(
        "`teacher` must be a keras.Model. Received: 'x'", teacher="x", error=TypeError
    )
    refused("`student` must be a keras.Model", student=layers.Dense(2), error=TypeError)


def test_not_functional():
    refused("`teacher` must be a Functional .* `.backbone`", teacher=Opaque())


def test_unbuilt():
    refused("`student` must be built", student=keras.Sequential([layers.Conv2D(3, 3)]))

    class Parts(Opaque):
        def __init__(self):
            super().__init__()
            self.backbone = convolutional(2, 2)
            self.head = layers.Conv2D(2, 1, name="unbuilt_head")

    refused("`student` must be built: .*unbuilt_head", student=Parts())


class Block(layers.Layer):
    """Layers without weights are built when they run, which is not yet."""

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


def test_unbuilt_layers_without_weights():
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


def test_parts_that_no_path_would_run():
    head, neck = layers.Conv2D(2, 1), layers.Conv2D(5, 1, name="neck")
    neck.build((None, None, None, 4))
    head.build((None, None, None, 5))
    refused(
        "its `.head` on the features .*Parts. with .'neck'.", student=Parts(head, neck)
    )
    student = Parts(head)
    del student.head
    refused("`student` must have a `.head`", student=student)


def test_no_common_stride():
    with pytest.raises(ValueError, match="two strides in common") as error:
        HybridTransfer(convolutional(3, 3), convolutional(2, 2))
    # Both stage tables, layers and all.
    assert str(error.value).count("convolutional") == 2
    assert "conv1" in str(error.value)


def test_one_common_stride_is_not_enough():
    refused(
        r"common strides \[4\]", teacher=convolutional(4, 4), student=convolutional(2, 2)
    )


@pytest.mark.parametrize(
    "bad", [(3,), (4, 2), (2, 8), (2, 2), (), "2", 2, (2, "out1"), (64,)]
)
def test_switch_points_out_of_the_common_strides(bad):
    refused(
        r"`switch_points` must be increasing strides out of \(2, 4\)", switch_points=bad
    )


def test_unknown_layer():
    pairs = [("out1", "out1"), ("nothing", "out2")]
    refused("`switch_points` must name layers of the teacher", switch_points=pairs)


def test_a_layer_that_is_no_cut():
    pairs = [("conv1", "out1"), ("out2", "out2")]
    refused("holds a single map. Received: 'conv1'", switch_points=pairs)
    refused(
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
def test_pairs_out_of_order(pairs):
    refused("must go from the input to the output", switch_points=pairs)


def test_pairs_that_are_none():
    refused("or pairs", switch_points=[("out1", "out1", "out1"), ("out2", "out2")])
    refused("last, the pair of the joint", switch_points=[("out1", "out1")])


def test_grayscale_against_rgb():
    refused("the same number of channels", teacher=convolutional(2, 2, channels=1))
    HybridTransfer(
        convolutional(2, 2, channels=1),
        tiny.student(),
        teacher_preprocessing=lambda x: keras.ops.mean(x, axis=-1, keepdims=True),
    )
    refused(
        r"Received images of shape \(1, 32, 32, 1\)",
        teacher_preprocessing=lambda x: keras.ops.mean(x, axis=-1, keepdims=True),
    )


def test_teacher_is_student():
    model = tiny.student()
    refused("Received the same one twice", teacher=model, student=model)


def test_shared_weights():
    student = tiny.student()
    teacher = keras.Model(student.input, student.get_layer("out3").output)
    refused("must not share weights", teacher=teacher, student=student)


@pytest.mark.parametrize("bad", ["sometimes", -1, None, float("inf")])
def test_bad_balance(bad):
    refused("`balance` must be", balance=bad)


def test_bad_batch_norm():
    refused('`student_batch_norm` must be "plain" or "all"', student_batch_norm="none")


def test_bad_preprocessing():
    refused("`teacher_preprocessing` must be", teacher_preprocessing=3, error=TypeError)


class Doubling(Adapter):
    def call(self, x, size):
        return 2 * super().call(x, size)


@pytest.mark.parametrize("bad", [None, "Adapter", 3, Adapter(4)])
def test_an_adapter_that_makes_nothing(bad):
    refused("`adapter` must be a class or a function", adapter=bad, error=TypeError)


def test_an_adapter_that_makes_no_layer():
    refused("which made 6", adapter=lambda channels, *_, **__: channels, error=TypeError)


def test_an_adapter_of_other_channels_or_sizes():
    def halved(channels, resizes, **kwargs):
        return Doubling(channels // 2, resizes, **kwargs)

    def unresized(channels, resizes, **kwargs):
        return Doubling(channels, resizes=False, **kwargs)

    refused(r"for channels=6 makes \(1, 2, 2, 3\)", adapter=halved)
    x = image = keras.Input((32, 32, 3))
    for _ in range(3):
        x = layers.Conv2D(4, 3, strides=2)(x)  # 15, 7 and 3 pixels, not 16, 8 and 4
    teacher = keras.Model(image, x)
    refused(r"with size=\(3, 3\)", teacher=teacher, adapter=unresized)


def test_images_too_small():
    x = image = keras.Input((None, None, 3))
    for _ in range(3):
        x = layers.Conv2D(4, 7, strides=2)(x)
    refused("must be larger for", teacher=keras.Model(image, x, name="hungry"))


def test_the_teacher_of_a_refused_pair_is_not_frozen():
    teacher = tiny.teacher()
    refused("`balance` must be", teacher=teacher, balance="x")
    assert teacher.trainable


def test_a_network_that_hardly_narrows_warns():
    nasnet = keras.applications.NASNetMobile(weights=None, input_shape=(64, 64, 3))
    student = keras.applications.MobileNet(
        weights=None, input_shape=(64, 64, 3), alpha=0.25
    )
    with pytest.warns(UserWarning, match="between strides 2 and 32"):
        model = HybridTransfer(nasnet, student)
    assert [segment.end.stride for segment in model.paths[0].segments] == [2, 32]


def test_no_loss():
    model = HybridTransfer(tiny.teacher(), tiny.student())
    model.compile("sgd")
    with pytest.raises(ValueError, match="No loss to compute"):
        model.train_on_batch(*tiny.batch())
