"""Networks with skips, such as U-Nets, as student and as teacher."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import equations
import tiny
from keras_hybrid import HybridTransfer, describe, export, find_stages

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy()


def double_conv(x, channels, name):
    for i in (1, 2):
        x = layers.Conv2D(channels, 3, padding="same", name=f"{name}_conv{i}")(x)
        x = layers.Activation("tanh", name=f"{name}_out{i}")(x)
    return x


def joined(x, skip, width, name):
    x = layers.Conv2DTranspose(width, 2, strides=2, name=f"{name}_wider")(x)
    return layers.Concatenate(name=f"{name}_joined")([x, skip])


def unet(size=(16, 16), channels=(4, 5, 6, 7), takes_image=False, classes=3, join=joined):
    """Strides 1, 2, 4 and 8 end at down0_out2 to down3_out2; all but the last skip."""
    x = image = keras.Input((*size, 3))
    x = layers.Rescaling(1.0, name="rescaling")(x)
    skips = [layers.Concatenate()([x, image])] if takes_image else []
    for i, width in enumerate(channels):
        x = layers.MaxPooling2D(name=f"pool{i}")(x) if i else x
        x = double_conv(x, width, f"down{i}")
        skips.append(x)
    skips.pop()
    for i, width in reversed(list(enumerate(channels[:-1]))):
        x = join(x, skips.pop(), width, f"up{i}")
        x = double_conv(x, width, f"up{i}")
    if takes_image:
        x = layers.Concatenate()([x, *skips])
    x = layers.Conv2D(classes, 1, activation="softmax", name="classes")(x)
    return keras.Model(image, x, name="unet")


def label_maps(count, size, classes=3, seed=0):
    return np.random.default_rng(seed).integers(0, classes, (count, *size))


STAGES = [(f"down{i}_out2", 2**i, 4 + i) for i in range(4)]


@pytest.mark.parametrize("size", [(16, 16), (None, None)])
@pytest.mark.parametrize("takes_image", [False, True])
def test_the_stages_of_a_unet_lead_to_its_coarsest_map(size, takes_image):
    found = find_stages(unet(size, takes_image=takes_image))
    assert [(s.layer_name, s.stride, s.channels) for s in found] == STAGES


class Join(layers.Layer):
    """Enlarges the first of two maps."""

    def call(self, maps):
        x, skip = maps
        return ops.concatenate([ops.repeat(ops.repeat(x, 2, 1), 2, 2), skip], -1)


def in_a_model(x, skip, width, name):
    inputs = [keras.Input(each.shape[1:]) for each in (x, skip)]
    return keras.Model(inputs, joined(*inputs, width, "in"), name=name)([x, skip])


def shuffled(x, skip, width, name):
    height, rest = x.shape[1], x.shape[-1] // 4
    x = ops.reshape(x[..., : 4 * rest], (-1, height, height, 2, 2, rest))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    x = ops.reshape(x, (-1, 2 * height, 2 * height, rest))
    return layers.Concatenate()([x, skip])


def repeated(x, skip, width, name):
    return ops.concatenate([ops.repeat(ops.repeat(x, 2, 1), 2, 2), skip], -1)


@pytest.mark.parametrize(
    "join", [in_a_model, shuffled, lambda x, skip, *_: Join()([x, skip])]
)
def test_a_map_may_be_enlarged_with_its_skip_or_in_several_steps(join):
    found = find_stages(unet(join=join))
    assert [s.stride for s in found] == [1, 2, 4, 8]
    assert [s.layer_name for s in found[:-1]] == [name for name, *_ in STAGES[:-1]]


def test_a_decoder_may_be_a_model_of_its_own():
    """It takes all maps of the encoder."""
    x = image = keras.Input((16, 16, 3))
    maps = []
    for i in range(3):
        x = double_conv(layers.MaxPooling2D()(x) if i else x, 4 + i, f"down{i}")
        maps.append(x)
    inputs = [keras.Input(each.shape[1:]) for each in maps]
    x = joined(joined(*inputs[:0:-1], 5, "up1"), inputs[0], 4, "up0")
    decoder = keras.Model(inputs, layers.Conv2D(3, 1, activation="softmax")(x))
    student = keras.Model(image, decoder(keras.Model(image, maps, name="encoder")(image)))
    found = find_stages(student)
    assert [(s.layer_name, s.stride) for s in found] == [
        (f"encoder/down{i}_out2", 2**i) for i in range(3)
    ]
    plain = HybridTransfer(tiny.teacher(16), student).paths[-1]
    images = tiny.batch(2, size=16)[0]
    np.testing.assert_allclose(plain(images), student(images), atol=1e-6)


def test_a_decoder_that_is_not_seen_to_enlarge_is_refused_with_its_reason():
    student = unet(join=repeated)
    with pytest.raises(ValueError, match="behind 'down0_conv1' it has maps of several"):
        HybridTransfer(tiny.teacher(16), student)


def in_windows(x, name, size=2):
    """A layer on windows of a map, which are then put together."""
    count, channels = x.shape[1] // size, x.shape[-1]
    y = ops.reshape(x, (-1, count, size, count, size, channels))
    y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, size, size, channels))
    y = layers.Dense(channels)(y)
    y = ops.reshape(y, (-1, count, count, size, size, channels))
    y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, *x.shape[1:]))
    return layers.Add(name=name)([x, y])


class Scale(layers.Layer):
    """Multiplies a map with a vector."""

    def call(self, inputs):
        x, gates = inputs
        return x * gates


def test_a_map_times_a_vector_is_not_enlarged():
    x = image = keras.Input((16, 16, 3))
    maps = []
    for i in range(3):
        x = double_conv(layers.MaxPooling2D()(x) if i else x, 4 + i, f"down{i}")
        gates = layers.Dense(4 + i)(layers.GlobalAveragePooling2D(keepdims=True)(x))
        x = Scale(name=f"out{i}")([x, gates])
        maps.append(x)
    for i in (1, 0):
        x = joined(x, maps[i], 4, f"up{i}")
    found = find_stages(keras.Model(image, layers.Conv2D(3, 1)(x)))
    assert [s.layer_name for s in found] == ["out0", "out1", "out2"]


def test_windows_that_are_put_together_are_not_enlarged():
    x = image = keras.Input((16, 16, 3))
    maps = []
    for i in range(3):
        x = double_conv(layers.MaxPooling2D()(x) if i else x, 4 + i, f"down{i}")
        x = in_windows(x, f"out{i}")
        maps.append(x)
    for i in (1, 0):
        x = joined(x, maps[i], 4, f"up{i}")
    found = find_stages(keras.Model(image, layers.Conv2D(3, 1)(x)))
    assert [(s.layer_name, s.stride) for s in found] == [
        (f"out{i}", 2**i) for i in range(3)
    ]


class PoolAndSkip(layers.Layer):
    """Returns its map pooled and as it is, in one order or the other."""

    def __init__(self, width, pooled_first, **kwargs):
        super().__init__(**kwargs)
        self.pooled_first = pooled_first
        self.convolution = layers.Conv2D(width, 3, padding="same", activation="tanh")

    def build(self, shape):
        self.convolution.build(shape)

    def call(self, x):
        x = self.convolution(x)
        maps = ops.max_pool(x, 2), x
        return maps if self.pooled_first else maps[::-1]


@pytest.mark.parametrize("pooled_first", [True, False])
def test_a_layer_may_return_its_map_twice(pooled_first, eager):
    x = image = keras.Input((16, 16, 3))
    skips = []
    for i in range(2):
        maps = PoolAndSkip(4 + i, pooled_first, name=f"down{i}")(x)
        x, skip = maps if pooled_first else maps[::-1]
        skips.append(skip)
    x = double_conv(x, 6, "bottom")
    for i in (1, 0):
        x = joined(x, skips[i], 4, f"up{i}")
    student = keras.Model(image, layers.Conv2D(3, 1, activation="softmax")(x))
    assert [s.stride for s in find_stages(student)] == [2, 4]
    model = HybridTransfer(tiny.teacher(16), student)
    model.compile("sgd", loss=CROSS_ENTROPY)
    images = tiny.batch(2, size=16)[0]
    for path in model.paths:
        probabilities = path(images)
        np.testing.assert_allclose(np.sum(probabilities, -1), 1, atol=1e-5)
    np.testing.assert_allclose(probabilities, student(images), atol=1e-6)
    before = [weight.numpy() for weight in student.trainable_weights]
    model.fit(images, label_maps(2, (16, 16)), verbose=0)
    for weight, old in zip(student.trainable_weights, before, strict=True):
        assert not np.array_equal(weight.numpy(), old), weight.path


@pytest.mark.parametrize("pooled_first", [True, False])
@pytest.mark.parametrize(
    ("resize", "size"), [(layers.UpSampling2D, [4]), (layers.Resizing, [4, 4])]
)
def test_pooling_of_the_image_in_deeplab_v3_is_no_hourglass(resize, size, pooled_first):
    """As in Chen et al. (2018): also a skip of stride 4."""
    image, maps = keras.Input((64, 64, 3)), []
    x = image
    for i in range(1, 5):
        x = layers.Conv2D(4, 3, strides=2, padding="same", name=f"out{i}")(x)
        maps.append(x)
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
    branches = [layers.Conv2D(4, 3, padding="same", dilation_rate=i)(x) for i in (1, 2)]
    of_image = [resize(*size)(layers.Conv2D(4, 1)(pooled))]
    x = [*of_image, *branches] if pooled_first else [*branches, *of_image]
    x = layers.Conv2D(5, 1, name="pyramid")(layers.Concatenate()(x))
    x = layers.UpSampling2D(4, name="wider")(x)
    x = layers.Concatenate()([x, layers.Conv2D(2, 1)(maps[1])])
    x = layers.UpSampling2D(4)(layers.Conv2D(3, 3, padding="same")(x))
    found = find_stages(keras.Model(image, x))
    assert [(s.layer_name, s.stride) for s in found] == [
        ("out1", 2),
        ("out2", 4),
        ("out3", 8),
        ("pyramid", 16),
    ]


def test_a_decoder_on_the_blocks_of_a_transformer():
    """As in UNETR (Hatamizadeh et al., 2022): all blocks are in the stages."""
    image = keras.Input((32, 32, 3))
    x = layers.Reshape((16, 8))(layers.Conv2D(8, 8, strides=8)(image))
    maps = []
    for i in range(4):
        x = layers.Add(name=f"block{i}")([x, layers.Dense(8, "tanh")(x)])
        maps.append(layers.Reshape((4, 4, 8))(x))
    x = maps.pop()
    while maps:
        x = layers.Conv2D(8, 3, padding="same")(x)
        wider = [layers.Conv2DTranspose(4, 2, strides=2)(y) for y in (x, *maps[-1:])]
        x = layers.Concatenate()(wider)
        maps = [layers.UpSampling2D()(y) for y in maps[:-1]]
    found = find_stages(keras.Model(image, layers.Conv2D(3, 1)(x)))
    assert [s.layer_name for s in found] == [f"block{i}" for i in range(4)]


ENCODERS = {
    "ResNet50": ("conv1_relu", "conv2_block3_out", "conv3_block4_out"),
    "MobileNetV2": (
        "block_1_expand_relu",
        "block_3_expand_relu",
        "block_6_expand_relu",
    ),
    # Inside of a residual block, where a shortcut bypasses the map.
    "ResNet50V2": ("conv1_conv", "conv2_block3_1_relu", "conv3_block4_1_relu"),
}


def with_decoder(family, size=64):
    network = getattr(keras.applications, family)
    base = network(include_top=False, weights=None, input_shape=(size, size, 3))
    x = base.output
    x = layers.UpSampling2D(4, interpolation="bilinear")(x)
    for name in reversed(ENCODERS[family]):
        skip = base.get_layer(name).output
        scale = skip.shape[1] // x.shape[1]
        x = layers.UpSampling2D(scale, interpolation="bilinear")(x) if scale > 1 else x
        x = layers.Concatenate()([x, skip])
        x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    return keras.Model(base.input, layers.Conv2D(3, 1, activation="softmax")(x))


@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_of_keras_applications_with_a_decoder(family):
    with keras.StatelessScope(initialize_variables=False):
        model = with_decoder(family)
    assert [s.stride for s in find_stages(model)] == [2, 4, 8, 16, 32]


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("bins", [(1, 2, 3, 6), (2, 3), (1,)])
def test_the_branches_of_pyramid_pooling_are_no_encoder(bins, skips):
    """Skips make it a UPerNet (Xiao et al., 2018)."""
    x = image = keras.Input((96, 96, 3))
    maps = []
    for i in range(3):
        x = layers.Conv2D(4, 3, strides=2, padding="same", name=f"out{i}")(x)
        maps.append(x)
    pooled = [layers.AveragePooling2D(12 // n)(x) for n in bins]
    pooled = [layers.Conv2D(2, 1, activation="relu")(y) for y in pooled]
    x = layers.Concatenate()([x, *(layers.Resizing(12, 12)(y) for y in pooled)])
    x = layers.Conv2D(3, 3, padding="same", name="scores")(x)
    for skip in (maps[1], maps[0]) if skips else ():
        x = layers.Concatenate()([layers.UpSampling2D()(x), skip])
        x = layers.Conv2D(3, 3, padding="same")(x)
    x = layers.UpSampling2D(2 if skips else 8)(x)
    found = find_stages(keras.Model(image, x))
    assert [(s.layer_name, s.stride) for s in found] == [
        ("out0", 2),
        ("out1", 4),
        ("scores", 8),
    ]


def hourglass(count, size=32, supervised=False):
    image = keras.Input((size, size, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="stem")(image)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(4, 3, padding="same", name="before0")(x)
    outputs = []
    for i in range(count):
        skip, y = x, x
        y = double_conv(layers.MaxPooling2D()(y), 4, f"deep{i}")
        y = layers.UpSampling2D(name=f"wider{i}")(y)
        y = layers.Add(name=f"joined{i}")([skip, y])
        scores = layers.Conv2D(3, 1, name=f"scores{i}")(y)
        outputs.append(scores)
        if supervised:
            y = layers.Add()([y, layers.Conv2D(4, 1)(scores)])
        x = layers.Add(name=f"before{i + 1}")([x, y])
    return keras.Model(image, outputs if supervised else outputs[-1], name="hourglass")


@pytest.mark.parametrize("supervised", [False, True])
def test_a_stacked_hourglass_is_refused_with_its_reason(supervised):
    assert [s.stride for s in find_stages(hourglass(1))] == [2, 4, 8]
    model = hourglass(2, supervised=supervised)
    with pytest.warns(UserWarning, match="widens at 'wider0'.*as a stacked hourglass"):
        assert find_stages(model) == []
    assert "as a stacked hourglass" in describe(model)
    with pytest.raises(ValueError, match="widens at 'wider0'.*`switch_points`"):
        HybridTransfer(tiny.teacher(), model)
    pairs = [("out1", "stem"), ("out2", "before0"), ("out3", "before1")]
    HybridTransfer(tiny.teacher(), hourglass(2), switch_points=pairs)


def test_a_head_that_takes_no_map_is_refused():
    x = image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="out1")(x)
    mean = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Multiply()([x, layers.Reshape((1, 1, 4))(mean)])
    x = layers.Conv2D(4, 3, strides=2, padding="same")(x)
    x = layers.Conv2D(4, 3, padding="same", name="out2")(x)
    x = layers.UpSampling2D()(x)
    x = layers.Add()([x, layers.Reshape((1, 1, 4))(mean)])
    student = keras.Model(image, layers.Conv2D(3, 1)(x), name="student")
    with pytest.raises(ValueError, match="whose head takes the output of 'mean'"):
        HybridTransfer(tiny.teacher(16), student)


def recomputed(teacher, student, model, images):
    """Predictions of the three paths, for a teacher with the strides 2, 4 and 8."""

    def layer_of(network, start, end):
        return equations.cut(network, start, end)

    kernels = {a.name: (a.convolution.kernel, a.convolution.bias) for a in model.adapters}

    def adapt(x, name, size=None):
        kernel, bias = kernels[name]
        x = tf.einsum("bhwc,cd->bhwd", x, kernel[0, 0]) + bias
        return x if size is None else tf.cast(tf.image.resize(x, size), x.dtype)

    down = [f"down{i}_out2" for i in range(4)]
    size = images.shape[1:3]
    decoder = keras.Model(
        [student.get_layer(name).output for name in down], student.output
    )
    # S1 T2 S3: the skip of stride 1 is the student's, and so on.
    skip0 = layer_of(student, None, down[0])(images)
    skip1 = layer_of(student, down[0], down[1])(skip0)
    x = adapt(skip1, "student_first_adapter_1")
    x = layer_of(teacher, "out1", "out2")(x)
    skip2 = adapt(x, "student_first_adapter_2")
    bottom = layer_of(student, down[2], down[3])(skip2)
    student_first = decoder([skip0, skip1, skip2, bottom])
    # T1 S2 T3.
    x = layer_of(teacher, None, "out1")(images)
    skip0 = adapt(x, "teacher_first_feature_adapter_1", size)
    skip1 = adapt(x, "teacher_first_adapter_1")
    skip2 = layer_of(student, down[1], down[2])(skip1)
    x = adapt(skip2, "teacher_first_adapter_2")
    x = layer_of(teacher, "out2", "out3")(x)
    bottom = adapt(x, "teacher_first_adapter_3")
    teacher_first = decoder([skip0, skip1, skip2, bottom])
    return student_first, teacher_first, student(images)


@pytest.mark.parametrize("size", [(16, 16), (16, 32)])
def test_training_step_of_a_unet_follows_equations_1_and_2(size):
    keras.config.set_dtype_policy("float64")
    teacher, student = tiny.teacher(size=None), unet(size)
    model = HybridTransfer(teacher, student)
    images = tf.random.stateless_normal((2, *size, 3), (0, 1), dtype="float64")
    labels = label_maps(2, size)
    alpha, losses, gradients = equations.losses_and_gradients(
        lambda: recomputed(teacher, student, model, images),
        CROSS_ENTROPY,
        labels,
        [v.value for v in model.trainable_variables],
    )
    equations.assert_step_follows(
        model, CROSS_ENTROPY, images, labels, alpha, losses, gradients
    )


def test_a_unet_teaches_a_unet_and_is_exported_whole(tmp_path, eager):
    teacher = unet((32, 32), (5, 6, 7, 8))
    teacher.name = "teacher"
    student = unet((32, 32), takes_image=True)
    model = HybridTransfer(teacher, student)
    model.compile("adam", loss=CROSS_ENTROPY)
    images, _ = tiny.batch(4)
    frozen = [v.numpy() for v in teacher.variables]
    model.fit(images, label_maps(4, (32, 32)), verbose=0)
    for variable, old in zip(teacher.variables, frozen):
        np.testing.assert_array_equal(variable.numpy(), old)
    student.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    expected = student.predict(images, verbose=0)
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), expected)
    report = export.to_tflite(model, tmp_path / "student.tflite")
    assert report.max_abs_error < 1e-5
