"""Networks that hold their feature maps as tokens (B, P + height * width, C)."""

import ast

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import equations
import tiny
import token_networks
from keras_hybrid import HybridTransfer, describe, export, find_stages
from keras_hybrid.baselines import FeatureTransfer
from keras_hybrid.hybrid import adapters, tokens
from keras_hybrid.hybrid.open_layer import keeps_blocks
from keras_hybrid.hybrid.stages import Network
from replicas import strategy

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy()


def ends(model):
    return [(s.layer_name, s.stride, s.channels) for s in find_stages(model)]


def test_a_plain_transformer_has_four_stages_of_equal_depth():
    assert ends(token_networks.vit(depth=4)) == [
        (f"block{i}_out", 8, 8) for i in (0, 1, 2, 3)
    ]
    assert [layer for layer, *_ in ends(token_networks.vit(depth=6))] == [
        f"block{i}_out" for i in (1, 2, 4, 5)
    ]


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("size", [(32, 32), (16, 40)])
def test_prefix_tokens_are_counted(prefix, size):
    network = Network(token_networks.vit(size, prefix=prefix), "model")
    for cut in network.stage_cuts:
        assert cut.prefix == prefix
        assert cut.size(size) == (size[0] // 8, size[1] // 8)


def test_a_hierarchical_transformer_has_a_stage_per_stride():
    model = token_networks.swin((16, 32))
    assert ends(model) == [("stage0_out", 2, 4), ("stage1_out", 4, 8), ("norm", 8, 16)]
    cuts = Network(model, "model").stage_cuts
    assert [cut.size((16, 32)) for cut in cuts] == [(8, 16), (4, 8), (2, 4)]


def test_tokens_hold_a_picture_row_by_row():
    picture = np.arange(2 * 3 * 5 * 4).reshape(2, 3, 5, 4).astype("float32")
    sequence = ops.convert_to_numpy(tokens.from_map(picture))
    for row in range(3):
        for column in range(5):
            np.testing.assert_array_equal(
                sequence[:, row * 5 + column], picture[:, row, column]
            )
    front = np.zeros((2, 2, 4), "float32")
    restored = tokens.to_map(np.concatenate([front, sequence], axis=1), 2, (3, 5))
    np.testing.assert_array_equal(restored, picture)


@pytest.mark.parametrize("size", [(24, 40), (40, 24)])
def test_a_picture_passes_through_the_tokens_of_another_network(size):
    """Through both adapters, with convolutions that change nothing."""
    of_map = Network(convolutional(8, 4, size), "model").stage_cuts[0]
    of_tokens = Network(token_networks.vit(size, channels=4), "model").cuts[-1]
    dtype = keras.DTypePolicy("float32")
    picture = np.random.default_rng(0).normal(size=(2, size[0] // 8, size[1] // 8, 4))
    x = picture
    for name, source, target in (
        ("to", of_map, of_tokens),
        ("from", of_tokens, of_map),
    ):
        layer = adapters.make(adapters.Adapter, source, target, False, dtype, name)
        layer.adapter.convolution.set_weights([np.eye(4)[None, None], np.zeros(4)])
        x = adapters.run(layer, x, (source, size), (target, size), training=False)
    np.testing.assert_allclose(x, picture, rtol=1e-6)


def convolutional(stride, channels, size):
    image = keras.Input((*size, 3))
    x = layers.Conv2D(channels, stride, strides=stride, name="out")(image)
    return keras.Model(image, x)


def cnn(size, classes=4):
    """Strides 2, 4, 8, 16 end at out1 to out4."""
    x = image = keras.Input((*size, 3))
    for i in range(1, 5):
        x = layers.Conv2D(3 + i, 3, strides=2, padding="same", name=f"conv{i}")(x)
        x = layers.Activation("tanh", name=f"out{i}")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(classes, activation="softmax")(x), name="cnn")


VIT = [f"block{i}_out" for i in range(4)]
CNN = [f"out{i}" for i in range(1, 5)]
SWIN = ["stage0_out", "stage1_out", "norm"]


def halved(size, *powers):
    return [tuple(n >> power for n in size) for power in powers]


# (teacher, student, points, sizes, prefixes), each a pair (teacher's, student's) a point.
def vit_and_cnn(size):
    networks = token_networks.vit(size, prefix=1, name="teacher"), cnn(size)
    sizes = halved(size, 3, 3, 3, 3), halved(size, 1, 2, 3, 4)
    return *networks, zip(VIT, CNN), zip(*sizes), [(1, None)] * 4


def cnn_and_vit(size):
    networks = cnn(size), token_networks.vit(size, prefix=0)
    sizes = halved(size, 1, 2, 3, 4), halved(size, 3, 3, 3, 3)
    return *networks, zip(CNN, VIT), zip(*sizes), [(None, 0)] * 4


def cnn_and_class_token(size):
    networks = cnn(size), token_networks.vit(size, prefix=1)
    sizes = halved(size, 1, 2, 3, 4), halved(size, 3, 3, 3, 3)
    return *networks, zip(CNN, VIT), zip(*sizes), [(None, 1)] * 4


def vit_and_vit(size):
    teacher = token_networks.vit(size, patch=4, channels=12, prefix=5, name="teacher")
    sizes = halved(size, 2, 2, 2, 2), halved(size, 3, 3, 3, 3)
    student = token_networks.vit(size, prefix=0)
    return teacher, student, zip(VIT, VIT), zip(*sizes), [(5, 0)] * 4


def swin_and_cnn(size):
    networks = token_networks.swin(size, name="teacher"), cnn(size)
    sizes = halved(size, 1, 2, 3)
    return *networks, zip(SWIN, CNN), zip(sizes, sizes), [(0, None)] * 3


def cnn_and_swin(size):
    sizes = halved(size, 1, 2, 3)
    networks = cnn(size), token_networks.swin(size)
    return *networks, zip(CNN, SWIN), zip(sizes, sizes), [(None, 0)] * 3


@pytest.mark.parametrize(
    ("pair", "size"),
    [
        (vit_and_cnn, (32, 32)),
        (vit_and_cnn, (16, 48)),
        (cnn_and_vit, (16, 48)),
        (cnn_and_class_token, (16, 48)),
        (vit_and_vit, (16, 48)),
        (swin_and_cnn, (16, 48)),
        (cnn_and_swin, (16, 48)),
    ],
)
def test_training_step_follows_equations_1_and_2(pair, size):
    keras.config.set_dtype_policy("float64")
    teacher, student, *rest = pair(size)
    points, sizes, prefixes = map(list, rest)
    model = HybridTransfer(teacher, student)
    images, labels = token_networks.images(4, size)
    weights = [
        (a.adapter.convolution.kernel, a.adapter.convolution.bias)
        + ((a.prefix,) if a.prefixes[1] else ())
        for a in model.adapters
    ]
    alpha, losses, gradients = equations.losses_and_gradients(
        lambda: equations.hybrid_forward(
            teacher, student, points, weights, tf.constant(images), sizes, prefixes
        ),
        CROSS_ENTROPY,
        labels,
        [v.value for v in model.trainable_variables],
    )
    frozen = [v.numpy() for v in teacher.variables]
    equations.assert_step_follows(
        model, CROSS_ENTROPY, images, labels, alpha, losses, gradients
    )
    for variable, old in zip(teacher.variables, frozen):
        np.testing.assert_array_equal(variable.numpy(), old)


def test_blocks_that_a_layer_keeps_in_a_list_are_cut_apart():
    model = token_networks.hidden_vit(depth=6)
    nodes = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    names = [name for name, *_ in ends(model)]
    assert names == [f"encoder/block{i}" for i in (1, 2, 4, 5)]
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == nodes
    images, _ = token_networks.images(2, (32, 32))
    plain = HybridTransfer(cnn((32, 32)), model).paths[-1]
    np.testing.assert_allclose(plain(images), model(images), rtol=1e-6)
    # The same dropout masks too: seeds are counted by the layers.
    training = [
        seeded(model, lambda network=network: network(images, training=True))
        for network in (plain, model)
    ]
    np.testing.assert_allclose(*training, rtol=1e-6)
    assert np.abs(training[0] - plain(images)).max() > 1e-3


def seeded(model, function):
    """The result of a function, from the state of the model's random layers."""
    states = [v for v in model.variables if "seed" in v.path]
    before = [v.numpy() for v in states]
    result = ops.convert_to_numpy(function())
    for state, value in zip(states, before, strict=True):
        state.assign(value)
    return result


def test_a_layer_of_a_few_equal_layers_is_no_list_of_blocks():
    layer = layers.MultiHeadAttention(2, 4)  # keeps four dense layers
    layer(np.zeros((1, 3, 8)), np.zeros((1, 3, 8)))
    assert len(layer._layers) > 3
    assert not keeps_blocks(layer)


@pytest.mark.parametrize("own", ["weight", "training", "batch"])
def test_blocks_that_cannot_be_cut_apart_are_refused(own):
    model = token_networks.hidden_vit(own=own)
    reason = r"blocks are hidden inside of the layer 'encoder' \(Encoder\)"
    with pytest.warns(UserWarning, match=reason):
        assert len(find_stages(model)) == 1
    with pytest.raises(ValueError, match=reason):
        HybridTransfer(model, cnn((32, 32)))


def test_a_plain_pair_is_switched_at_named_layers_or_the_cnns_strides():
    teacher = token_networks.vit(prefix=0, name="teacher")
    model = HybridTransfer(teacher, cnn((32, 32)), switch_points=(4, 8))
    *segments, last = model.paths[0].segments
    pairs = [(s.end.layer_name, s.target.layer_name) for s in segments]
    assert pairs == [("out2", "block1_out"), ("block2_out", "out3")]
    assert (last.owner, last.end.layer_name) == ("student", "out4")
    vits = teacher, token_networks.vit(prefix=0)
    with pytest.raises(ValueError, match="pairs of layer names"):
        HybridTransfer(*vits, switch_points=(8,))
    pairs = [("block0_out", "block2_out"), ("block3_out", "block3_out")]
    HybridTransfer(*vits, switch_points=pairs)


def test_the_table_of_stages_tells_tokens():
    lines = describe(token_networks.vit(prefix=5)).splitlines()
    assert lines[2].split() == ["8", "8", "block0_out", "(tokens,", "5", "in", "front)"]
    model = HybridTransfer(token_networks.vit(name="teacher"), cnn((32, 32)))
    assert "-> 1x1 adapter 4 to 8" in describe(model)


@pytest.mark.parametrize("size", [(40, 24), (None, None)])
def test_images_are_resized_for_a_teacher_of_one_size(size, eager):
    teacher, student = token_networks.vit((32, 32), name="teacher"), cnn(size)
    message = r"takes images of \(height, width\) \(32, 32\) only"
    with pytest.raises(ValueError, match=message):
        HybridTransfer(teacher, student)
    model = HybridTransfer(teacher, student, teacher_preprocessing="torch")
    images, labels = token_networks.images(4, (40, 24))
    path = model.paths[1]
    seen = ops.convert_to_numpy(path.inputs(127.5 + 127.5 * images)["teacher"])
    assert seen.shape == (4, 32, 32, 3)
    model.compile("adam", loss=CROSS_ENTROPY)
    model.fit(images, labels, verbose=0)


def test_a_hidden_position_embedding_fixes_the_image_size():
    """Also where the feature maps are maps, not tokens."""
    x = image = keras.Input((32, 32, 3))
    for i in range(3):
        x = layers.Conv2D(4, 3, strides=2, padding="same", name=f"conv{i}")(x)
        x = token_networks.PositionEmbedding(name=f"out{i}")(x)
    teacher = keras.Model(image, x)
    # It can only be told from the weights: the layer's shape is the shape of its input.
    embedding = teacher.get_layer("out0")
    assert embedding.compute_output_shape((None, 5, 7, 4)) == (None, 5, 7, 4)
    with pytest.raises(ValueError, match="takes images of"):
        HybridTransfer(teacher, cnn((40, 24)))


METHODS = "fitnet", "at", "ft", "ab", "overhaul"


@pytest.mark.parametrize("method", METHODS)
def test_baselines_compare_the_maps_of_tokens(method, eager):
    teacher = token_networks.vit((32, 32), prefix=5, name="teacher")
    for student in (cnn((32, 32)), token_networks.vit(prefix=0)):
        model = FeatureTransfer(teacher, student, method)
        model.compile("adam", loss=CROSS_ENTROPY)
        images, labels = token_networks.images(4, (32, 32))
        logs = model.train_on_batch(images, labels, return_dict=True)
        assert logs["transfer_loss"] > 0


def test_attention_transfer_sees_the_grid_of_the_tokens(eager):
    teacher = token_networks.vit((32, 16), prefix=5, name="teacher")
    student = token_networks.vit((32, 16), prefix=0)
    model = FeatureTransfer(teacher, student, "at", 1.0)
    images, labels = token_networks.images(2, (32, 16))
    ends = [
        keras.Model(network.input, [network.get_layer(n).output for n in VIT])(images)
        for network in (teacher, student)
    ]
    expected = 0.0
    for of_teacher, of_student in zip(*ends):
        attention = [
            np.mean(np.square(x), axis=-1) for x in (of_teacher[:, 5:], of_student)
        ]
        attention = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in attention]
        expected += np.mean(np.square(attention[0] - attention[1]))
    model.compile("sgd", loss=CROSS_ENTROPY)
    logs = model.train_on_batch(images, labels, return_dict=True)
    # Half of the distance, as in Zagoruyko and Komodakis (2017), Eq. 2.
    assert logs["transfer_loss"] == pytest.approx(expected / 2, rel=1e-3)


def token_pair(opened=False):
    """A ViT with prefix tokens; a Swin, or a ViT with dropout inside of one layer."""
    teacher = token_networks.vit((32, 32), prefix=5, depth=2, name="teacher")
    student = token_networks.hidden_vit(depth=2)
    return HybridTransfer(teacher, student if opened else token_networks.swin(stages=2))


def test_training_resumed_from_a_file_equals_uninterrupted_training(tmp_path, eager):
    model = token_pair(opened=True)
    model.compile(keras.optimizers.Adam(0.01), CROSS_ENTROPY, metrics=["accuracy"])
    frozen = [v.numpy() for v in model.teacher.variables]
    images, labels = token_networks.images(8, 32)
    fit = {"batch_size": 4, "shuffle": False, "verbose": 0}
    model.fit(images, labels, **fit)
    model.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")
    histories = [each.fit(images, labels, **fit).history for each in (model, loaded)]
    assert histories[0] == histories[1]
    for a, b in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    for variable, old in zip(model.teacher.variables, frozen, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)


def test_two_replicas_equal_one_device():
    trained = []
    images, labels = token_networks.images(8, 32)
    for replicas in (1, 2):
        with strategy(replicas).scope():
            keras.utils.set_random_seed(0)
            model = token_pair()
            model.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY)
        logs = model.fit(images, labels, batch_size=4, shuffle=False, verbose=0).history
        trained.append((logs, [w.numpy() for w in model.trainable_weights]))
    (one_logs, one), (two_logs, two) = trained
    assert one_logs["balance"] == pytest.approx(two_logs["balance"], abs=1e-5)
    for weight, other in zip(one, two, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)


@pytest.mark.parametrize("opened", [False, True])
def test_a_transformer_is_exported_alone(opened, tmp_path):
    model = token_pair(opened)
    images, _ = token_networks.images(4, 32)
    expected = model.student.predict(images, verbose=0)
    report = export.to_tflite(model, tmp_path / "student.tflite")
    assert report.max_abs_error < 1e-5
    export.to_saved_model(model, tmp_path / "student")
    loaded = tf.saved_model.load(tmp_path / "student")
    (found,) = loaded.serve(images).values()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_head_that_takes_only_a_class_token_is_told_of(caplog):
    teacher, student = cnn((32, 32)), token_networks.vit(prefix=1)
    model = HybridTransfer(teacher, student)
    (message,) = caplog.messages
    assert "takes only the prefix tokens of 'block3_out'" in message
    images, _ = token_networks.images(3, 32)
    same = ops.convert_to_numpy(model.paths[0](images))  # ends in a stage of the teacher
    np.testing.assert_allclose(same, same[:1].repeat(3, axis=0))
    # The points that the message names give every path something of the images.
    pairs = ast.literal_eval(message.rpartition("switch_points=")[2])
    assert pairs[-1] == ("out4", "block2_out")
    model = HybridTransfer(teacher, student, switch_points=pairs)
    for path in model.paths:
        predictions = ops.convert_to_numpy(path(images))
        assert np.ptp(predictions, axis=0).max() > 1e-4, path.name


def test_weights_of_adapters_have_paths_of_their_own():
    """By which Keras finds them on PyTorch."""
    model = HybridTransfer(token_networks.vit(), cnn((32, 32)))
    paths = [weight.path for layer in model.adapters for weight in layer.weights]
    assert len(set(paths)) == len(paths)


def test_no_points_are_suggested_where_there_are_none(caplog):
    vits = (token_networks.vit(depth=2, name=name) for name in ("teacher", "student"))
    HybridTransfer(*vits)
    (message,) = caplog.messages
    assert "takes only the prefix tokens" in message
    assert "switch_points" not in message


def test_a_head_that_takes_the_other_tokens_is_not_told_of(caplog):
    HybridTransfer(cnn((32, 32)), token_networks.vit(prefix=0))
    assert not caplog.messages


def test_a_student_with_a_class_token_takes_images_of_any_size(eager):
    student = token_networks.vit(size=(None, None), prefix=1)
    model = HybridTransfer(tiny.teacher(None, channels=(4, 5, 6, 7)), student)
    model.compile("sgd", "sparse_categorical_crossentropy")
    for size in (32, 48):
        images, labels = tiny.batch(2, size=size)
        assert np.all(np.isfinite(model.train_on_batch(images, labels)))
