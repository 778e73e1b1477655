"""DeepLab v2 on dilated backbones, alone and as the student of `HybridTransfer`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import equations
import keras_hybrid
from keras_hybrid import HybridTransfer, applications
from keras_hybrid.models.segmentation.deeplab_v2 import deeplab_v2, with_label_map
from keras_hybrid.models.segmentation.dilation import undilated_stages


def small(name="MobileNet", size=(64, 96), classes=3, **kwargs):
    if name == "MobileNet":
        kwargs = {"alpha": 0.25, **kwargs}
    stride = kwargs.pop("output_stride", 8)
    backbone = applications.load(name, weights=None, input_shape=(*size, 3), **kwargs)
    return deeplab_v2(backbone, classes, output_stride=stride)


def images(height=64, width=96):
    shape = (2, height, width, 3)
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["MobileNet", "ResNet50", "VGG16"])
def test_logits_have_the_size_of_the_images(name, output_stride, shallow):
    student = small(name, output_stride=output_stride)
    assert student(images()).shape == (2, 64, 96, 3)
    pyramid = student.get_layer("aspp").input[0]
    assert pyramid.shape[1:3] == (64 // output_stride, 96 // output_stride)


def test_segmenter_accepts_images_of_any_size():
    student, fixed = small(size=(None, None)), small()
    fixed.set_weights(student.get_weights())
    np.testing.assert_allclose(student(images()), fixed(images()), atol=1e-6)
    assert student(images(80, 64)).shape == (2, 80, 64, 3)
    # A size that is not a multiple of the stride must be fixed.
    assert small(size=(45, 60))(images(45, 60)).shape == (2, 45, 60, 3)


def test_a_backbone_that_loses_the_borders_of_images_is_rejected():
    """Its branches differ in size at stride 16; at 32 they are all too small."""
    size = None, None, 3
    backbone = applications.load("InceptionV3", weights=None, input_shape=size)
    for output_stride in (16, 32):
        with pytest.raises(ValueError, match="Those of 'inception_v3' lose the borders"):
            deeplab_v2(backbone, 4, output_stride=output_stride)


def test_aspp_sums_branches_of_all_four_rates():
    """A branch reaches the pixels at a distance of its rate; the sum reaches them all."""
    x = keras.Input((64, 64, 1))
    student = deeplab_v2(
        keras.Model(x, keras.layers.Conv2D(1, 1, name="c")(x)), 1, output_stride=1
    )
    for weight in student.weights:
        weight.assign(np.ones(weight.shape) * ("kernel" in weight.path))
    image = np.zeros((1, 64, 64, 1))
    image[0, 32, 32] = 1
    row = student(image)[0, 32, :, 0].numpy()
    seen = {n: row[32 + n] for n in range(-31, 32) if row[32 + n]}
    assert seen == {0: 4, **{s * rate: 1 for rate in (6, 12, 18, 24) for s in (1, -1)}}


def test_vgg_has_fc6_and_fc7_as_convolutions():
    student = small("VGG16")
    for name, channels in (("fc6", 512), ("fc7", 1024)):
        layer = student.get_layer(name)
        assert layer.kernel.shape == (3, 3, channels, 1024)
        assert layer.dilation_rate == (4, 4)
        assert layer.activation is keras.activations.relu
    assert small("VGG16", output_stride=16).get_layer("fc6").dilation_rate == (2, 2)


def test_aspp_kernels_are_initialised_small():
    student = small()
    kernel = student.get_layer("aspp_6").kernel
    assert np.std(kernel) == pytest.approx(0.01, rel=0.1)
    assert not np.any(student.get_layer("aspp_24").bias)


def test_label_map_is_the_argmax_of_the_logits():
    student = small()
    labels = with_label_map(student)(images())
    assert labels.dtype == "uint8"
    np.testing.assert_array_equal(labels, np.argmax(student(images()), axis=-1))


def test_last_stage_of_vgg_ends_at_fc7():
    stages = [(s.stride, s.layer_name) for s in undilated_stages(small("VGG16"))]
    assert stages == [
        (1, "block1_conv2"),
        (2, "block2_conv2"),
        (4, "block3_conv3"),
        (8, "block4_conv3"),
        (16, "block5_conv3"),
        (32, "fc7"),
    ]


def pairs(teacher, student):
    ends = {s.stride: s.layer_name for s in undilated_stages(student)}
    return [
        (s.layer_name, ends[s.stride])
        for s in undilated_stages(teacher)
        if s.stride in ends
    ]


def test_paths_of_dilated_networks_with_layer_pairs():
    teacher, student = small("ResNet50"), small("VGG16")
    model = HybridTransfer(teacher, student, switch_points=pairs(teacher, student))
    assert [path.owners for path in model.paths[:2]] == [
        ("student", "teacher", "student", "teacher", "student"),
        ("teacher", "student", "teacher", "student", "teacher"),
    ]
    table = keras_hybrid.describe(model)
    for name in ("conv4_block6_out", "block5_conv3", "conv5_block3_out", "fc7"):
        assert name in table
    for path in model.paths:
        assert path(images()).shape == (2, 64, 96, 3)


def test_undilated_and_shallow_teachers():
    """A teacher of stride 32 has smaller maps; one of stride 8 has its joint there."""
    student = small()
    vgg = applications.load("VGG16", weights=None)
    shallow = keras.Model(vgg.input, vgg.get_layer("block4_conv3").output)
    for teacher, points in ((vgg, 5), (shallow, 3)):
        assert len(pairs(teacher, student)) == points
        model = HybridTransfer(teacher, student, switch_points=pairs(teacher, student))
        for path in model.paths:
            assert path(images()).shape == (2, 64, 96, 3)


def test_saved_segmenter_has_keras_layers_only(tmp_path):
    student = small()
    student.save(tmp_path / "student.keras")
    modules = {type(layer).__module__.split(".")[0] for layer in student.layers}
    assert modules == {"keras"}
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_allclose(loaded(images()), student(images()), atol=1e-6)


@pytest.mark.parametrize("alpha", [None, 0.7])
def test_training_step_follows_equations_1_and_2(alpha):
    """Dense labels with ignored pixels, a dilated student and an undilated teacher.

    In float64, because in float32 the order of additions decides on which side of zero
    an activation falls, or which value wins a tie of max pooling.
    """
    keras.config.set_dtype_policy("float64")
    size = 32, 64
    teacher = applications.load("VGG16", weights=None, input_shape=(*size, 3))
    student = small(size=size, dropout=0.0)
    points = pairs(teacher, student)
    sizes = [
        tuple(
            network.get_layer(name).output.shape[1:3]
            for network, name in zip((teacher, student), point)
        )
        for point in points
    ]
    model = HybridTransfer(
        teacher,
        student,
        switch_points=points,
        balance="dynamic" if alpha is None else alpha,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    labels = np.random.default_rng(1).choice([0, 1, 2, 255], (2, *size))
    variables = [v.value for v in model.trainable_variables]
    before = [v.numpy() for v in model.variables]
    kernels = [(a.convolution.kernel, a.convolution.bias) for a in model.adapters]
    expected_alpha, losses, gradients = equations.losses_and_gradients(
        lambda: equations.hybrid_forward(
            teacher, student, points, kernels, tf.constant(images(*size)), sizes
        ),
        masked_cross_entropy,
        labels,
        variables,
        alpha,
    )
    for variable, value in zip(model.variables, before):
        variable.assign(value)
    model.compile(keras.optimizers.SGD(1.0), loss=loss)
    logs = model.train_on_batch(images(*size), labels, return_dict=True)
    assert logs["balance"] == pytest.approx(expected_alpha, rel=1e-5)
    names = "student_first_loss", "teacher_first_loss", "student_loss"
    assert [logs[name] for name in names] == pytest.approx(losses, rel=1e-5)
    old = dict(zip(map(id, model.variables), before))
    for variable, gradient in zip(model.trainable_variables, gradients):
        taken = old[id(variable)] - variable.numpy()
        scale = max(np.abs(gradient).max(), 1e-3)
        np.testing.assert_allclose(
            taken / scale, gradient / scale, atol=2e-5, err_msg=variable.path
        )


def masked_cross_entropy(labels, logits):
    """Mean of -log softmax over the labelled pixels."""
    known = np.argwhere(labels != 255)
    scores = tf.gather_nd(tf.nn.log_softmax(logits), known)
    truth = tf.gather_nd(labels, known)
    return -tf.reduce_mean(tf.gather(scores, truth, batch_dims=1))
