import keras
import pytest
from keras import layers

from keras_hybrid import find_stages
from keras_hybrid.hybrid.stages import Network

# name -> (strides, {stage index: (layer at its end, channels)} for some stages)
FAMILIES = {
    "VGG16": ([1, 2, 4, 8, 16, 32], {0: ("block1_conv2", 64), 5: ("block5_pool", 512)}),
    "ResNet50": (
        [2, 4, 8, 16, 32],
        {
            0: ("conv1_relu", 64),
            1: ("conv2_block3_out", 256),
            4: ("conv5_block3_out", 2048),
        },
    ),
    "ResNet50V2": ([2, 4, 8, 16, 32], {0: ("conv1_conv", 64), 4: ("post_relu", 2048)}),
    "MobileNet": (
        [2, 4, 8, 16, 32],
        {0: ("conv_pw_1_relu", 64), 3: ("conv_pw_11_relu", 512)},
    ),
    "MobileNetV2": ([2, 4, 8, 16, 32], {0: ("block_1_expand_relu", 96)}),
    "MobileNetV3Small": ([2, 4, 8, 16, 32], {}),
    "EfficientNetB0": ([2, 4, 8, 16, 32], {4: ("top_activation", 1280)}),
    "EfficientNetV2B0": ([2, 4, 8, 16, 32], {1: ("block2b_add", 32)}),
    "DenseNet121": ([2, 4, 8, 16, 32], {1: ("pool2_conv", 128), 4: ("relu", 1024)}),
    "ConvNeXtTiny": ([4, 8, 16, 32], {}),
    "InceptionV3": ([2, 4, 8, 16, 32], {2: ("mixed2", 288), 4: ("mixed10", 2048)}),
    "InceptionResNetV2": ([2, 4, 8, 16, 32], {4: ("conv_7b_ac", 1536)}),
    "Xception": ([2, 4, 8, 16, 32], {0: ("block1_conv2_act", 64)}),
}


def application(name, **kwargs):
    """A network with uninitialised weights; its cuts do not depend on them."""
    with keras.StatelessScope(initialize_variables=False):
        return getattr(keras.applications, name)(weights=None, **kwargs)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_cut_at_its_downsampling_layers(family):
    strides, ends = FAMILIES[family]
    whole_model = application(family)
    whole = find_stages(whole_model)
    assert [stage.stride for stage in whole] == strides
    for index, (layer_name, channels) in ends.items():
        assert (whole[index].layer_name, whole[index].channels) == (layer_name, channels)
    if family != "ConvNeXtTiny":  # its blocks end in an op, not in a layer
        assert all(whole_model.get_layer(stage.layer_name) for stage in whole)
    headless = application(family, include_top=False, input_shape=(None, None, 3))
    assert [s.stride for s in find_stages(headless)] == strides
    assert [s.channels for s in find_stages(headless)] == [s.channels for s in whole]


def test_nasnet_has_two_stages():
    # Each cell takes the outputs of the two previous cells.
    model = application("NASNetMobile", input_shape=(224, 224, 3))
    assert [stage.stride for stage in find_stages(model)] == [2, 32]


@pytest.mark.parametrize("family", ["Xception", "InceptionV3", "ResNet50", "VGG16"])
@pytest.mark.parametrize("size", [(200, 333), (299, 299)])
def test_cut_sizes_equal_the_sizes_of_the_feature_maps(family, size):
    model = application(family, include_top=False, input_shape=(None, None, 3))
    fixed = application(family, include_top=False, input_shape=(*size, 3))
    for cut, known in zip(
        Network(model, "m").cuts, Network(fixed, "m").cuts, strict=True
    ):
        assert cut.size(size) == tuple(known.spec.shape[1:3])


@pytest.mark.parametrize("size", [32, 71, 96])
def test_strides_do_not_depend_on_the_image_size(size):
    model = application("MobileNet", input_shape=(size, size, 3))
    assert [stage.stride for stage in find_stages(model)] == [2, 4, 8, 16, 32]


def test_weighted_layers_equal_the_published_counts():
    # Without classifiers: VGG-16 has 13 convolutions, ResNet-50 49, DenseNet-121 120.
    for name, count in [("VGG16", 13), ("ResNet50", 49), ("DenseNet121", 120)]:
        network = Network(application(name, include_top=False), "model")
        assert network.weighted_layers(network.start, network.cuts[-1]) == count


def test_stages_of_a_nested_model():
    base = keras.applications.MobileNet(weights=None, include_top=False, alpha=0.25)
    image = keras.Input((64, 64, 3))
    x = layers.Rescaling(1 / 127.5, -1)(image)
    x = layers.GlobalAveragePooling2D()(base(x, training=False))
    model = keras.Model(image, layers.Dense(3)(x))
    stages = find_stages(model)
    assert [stage.stride for stage in stages] == [2, 4, 8, 16, 32]
    assert stages[0].layer_name == f"{base.name}/conv_pw_1_relu"


def test_stages_of_a_sequential_model():
    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, padding="same", name="first"),
            layers.MaxPooling2D(),
            layers.ZeroPadding2D(1),
            layers.Conv2D(6, 3, strides=2, name="second"),
            layers.GlobalAveragePooling2D(keepdims=True),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    found = [(s.layer_name, s.stride, s.channels) for s in find_stages(model)]
    pool = model.layers[2].name
    assert found == [("first", 1, 4), (pool, 2, 4), ("second", 4, 6)]


def test_full_resolution_without_weights_is_not_a_stage():
    image = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="conv")(x)
    assert [s.layer_name for s in find_stages(keras.Model(image, x))] == ["conv"]


def test_average_pooling_to_one_pixel_is_global_pooling():
    image = keras.Input((28, 28, 3))
    x = layers.Conv2D(4, 3, strides=4, padding="same", name="conv")(image)
    x = layers.AveragePooling2D(7)(x)
    assert [s.stride for s in find_stages(keras.Model(image, x))] == [4]


def test_upsampling_ends_the_last_stage():
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="down")(image)
    x = layers.UpSampling2D(2)(x)
    x = layers.Conv2D(4, 3, padding="same")(x)
    assert [s.layer_name for s in find_stages(keras.Model(image, x))] == ["down"]


def test_enlarging_the_input_counts_as_stride_1():
    image = keras.Input((32, 32, 3))
    x = layers.Resizing(64, 64)(image)
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="down")(x)
    network = Network(keras.Model(image, x), "model")
    assert [s.stride for s in network.stages] == [2]
    assert network.cuts[-1].size((32, 32)) == (32, 32)


def chain(channels=(4, 6, 8)):
    """An image input and the maps of strides 2, 4 and 8, named out1, out2 and out3."""
    x = image = keras.Input((32, 32, 3))
    maps = []
    for i, width in enumerate(channels, start=1):
        x = layers.Conv2D(width, 3, strides=2, padding="same", name=f"out{i}")(x)
        maps.append(x)
    return image, maps


def pooled(x, name=None):
    return layers.Dense(2, name=name)(layers.GlobalAveragePooling2D()(x))


SEVERAL_OUTPUTS = {
    "pyramid": lambda maps: maps,
    "deepest first": lambda maps: maps[::-1],
    "dict of maps": lambda maps: dict(zip("cba", maps)),
    "auxiliary head": lambda maps: [pooled(maps[2]), pooled(maps[1])],
    "auxiliary head first": lambda maps: [pooled(maps[0]), pooled(maps[2])],
    "two heads on the last": lambda maps: [pooled(maps[2]), layers.Flatten()(maps[2])],
}


@pytest.mark.parametrize("case", SEVERAL_OUTPUTS)
def test_models_with_several_outputs_are_cut_down_to_the_coarsest_map(case):
    image, maps = chain()
    found = find_stages(keras.Model(image, SEVERAL_OUTPUTS[case](maps)))
    assert [(s.layer_name, s.stride) for s in found] == [
        ("out1", 2),
        ("out2", 4),
        ("out3", 8),
    ]


def test_convolutional_heads_are_not_stages():
    """The last stage ends at the map shared by both heads, not inside one of them."""
    image, maps = chain()
    outputs = [layers.Conv2D(n, 3, padding="same")(maps[-1]) for n in (2, 5)]
    outputs.append(pooled(maps[1]))
    stages = find_stages(keras.Model(image, outputs))
    assert [stage.layer_name for stage in stages] == ["out1", "out2", "out3"]


def squeezed(x, name):
    """x times a vector of sigmoids."""
    mean = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gates = layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(mean)
    return layers.Multiply(name=name)([x, gates])


def test_a_gate_at_the_end_makes_no_predictions():
    image, maps = chain()
    stages = find_stages(keras.Model(image, squeezed(maps[-1], "gated")))
    assert [stage.layer_name for stage in stages] == ["out1", "out2", "gated"]


def coarse_convolution(x):
    y = layers.Conv2D(x.shape[-1], 3, padding="same")(layers.AveragePooling2D(2)(x))
    return layers.UpSampling2D()(y)


def attention_to_coarse_maps(x):
    y = layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    y = layers.Conv2D(x.shape[-1], 1)(y)
    return layers.MultiHeadAttention(2, 4, attention_axes=(1, 2))(x, y)


@pytest.mark.parametrize("branch", [coarse_convolution, attention_to_coarse_maps])
def test_blocks_with_a_branch_of_lower_resolution_are_parts_of_a_plain_network(branch):
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 4, strides=4)(image)
    for i in range(8):
        x = layers.Add(name=f"block{i}")([x, branch(x)])
    x = layers.GlobalAveragePooling2D()(x)
    stages = find_stages(keras.Model(image, layers.Dense(3)(x)))
    assert [s.layer_name for s in stages] == ["block1", "block3", "block5", "block7"]


def test_find_stages_does_not_change_the_model():
    model = keras.applications.MobileNet(weights=None, alpha=0.25)
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    find_stages(model)
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes


def test_find_stages_rejects_anything_but_a_model():
    with pytest.raises(TypeError, match="`model` must be a keras.Model"):
        find_stages("ResNet50")


def test_an_unbuilt_sequential_model_is_rejected():
    with pytest.raises(ValueError, match="must be built"):
        find_stages(keras.Sequential([layers.Conv2D(3, 3)]))


def test_a_subclassed_model_is_rejected():
    class Subclass(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="`.backbone`"):
        find_stages(Subclass())


def test_a_model_without_image_input_is_rejected():
    vector = keras.Input((5,))
    with pytest.raises(ValueError, match="one batch of images"):
        find_stages(keras.Model(vector, layers.Dense(2)(vector)))


class Limited(layers.Layer):
    """Says that its maps shrink as its input grows."""

    def call(self, x):
        return x[:, :8, :8]

    def compute_output_shape(self, shape):
        size = 200 if shape[1] and shape[1] <= 256 else 8
        return (shape[0], size, size, shape[3])


def test_a_map_that_never_grows_ends_the_search():
    image = keras.Input((256, 256, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="half")(Limited()(image))
    network = keras.Model(image, layers.Conv2D(4, 3, 2, name="last")(x))
    names = [cut.layer_name for cut in Network(network, "teacher").cuts]
    assert names == ["limited", "half", "last"]
