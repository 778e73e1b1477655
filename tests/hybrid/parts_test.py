"""Students with a backbone and a head, maps of several scales and a custom loss."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tiny
from keras_hybrid import HybridTransfer, find_stages


def backbone(size=32, widths=(4, 6, 8), norm=True):
    x = image = keras.Input((size, size, 3))
    maps = []
    for i, width in enumerate(widths, start=1):
        x = layers.Conv2D(width, 3, strides=2, padding="same", name=f"conv{i}")(x)
        x = layers.BatchNormalization()(x) if norm else x
        x = layers.Activation("tanh", name=f"out{i}")(x)
        maps.append(x)
    return keras.Model(image, {f"p{i}": x for i, x in enumerate(maps, start=1)})


@keras.saving.register_keras_serializable("tests")
class Pyramid(keras.layers.Layer):
    """Sums all scales at the finest one: (B, H/2, W/2, 2)."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.laterals = [layers.Conv2D(2, 1, name=f"lateral{i}") for i in range(3)]

    def build(self, input_shapes):
        for key, lateral in zip(sorted(input_shapes), self.laterals):
            lateral.build(input_shapes[key])

    def call(self, maps):
        sizes = {key: maps[key].shape[1:3] for key in maps}
        total = 0
        for key, lateral in zip(sorted(maps), self.laterals):
            factor = sizes["p1"][0] // sizes[key][0]
            total = total + ops.repeat(
                ops.repeat(lateral(maps[key]), factor, axis=1), factor, axis=2
            )
        return total


@keras.saving.register_keras_serializable("tests")
class Detector(keras.Model):
    """A student that computes its own loss and is compiled without one."""

    def __init__(self, trunk=None, **kwargs):
        super().__init__(**kwargs)
        self.backbone = trunk or backbone()
        self.head = Pyramid(name="pyramid")
        shapes = {k: v.shape for k, v in self.backbone.output.items()}
        self.head.build(shapes)
        self.built = True

    def call(self, x, training=None):
        return self.head(self.backbone(x, training=training), training=training)

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        return ops.mean(ops.square(y_pred - ops.expand_dims(y, -1)))

    def get_config(self):
        return {"name": self.name}


def targets(images):
    return images[:, ::2, ::2].mean(-1)


def test_stages_of_a_detector_are_those_of_its_backbone():
    stages = [(s.stride, s.layer_name, s.channels) for s in find_stages(Detector())]
    assert stages == [(2, "out1", 4), (4, "out2", 6), (8, "out3", 8)]


def test_every_path_passes_every_scale_with_the_students_channels():
    student = Detector()
    model = HybridTransfer(tiny.teacher(), student)
    images, _ = tiny.batch(3)
    seen = []
    call = student.head.call
    student.head.call = lambda maps: seen.append(maps) or call(maps)
    predictions = [path(images) for path in model.paths]
    for maps in seen:
        shapes = {key: tuple(value.shape) for key, value in maps.items()}
        assert shapes == {"p1": (3, 16, 16, 4), "p2": (3, 8, 8, 6), "p3": (3, 4, 4, 8)}
    np.testing.assert_allclose(predictions[2], student(images), atol=1e-6)
    # The student-first and the plain path share S1, whose map the head takes unchanged.
    np.testing.assert_array_equal(seen[0]["p1"], seen[2]["p1"])
    assert not np.allclose(seen[1]["p1"], seen[2]["p1"])


def test_a_scale_within_a_teacher_segment_gets_an_adapter():
    model = HybridTransfer(tiny.teacher(), Detector(), switch_points=(4,))
    names = [adapter.name for adapter in model.adapters]
    # Student-first: student to stride 4, teacher to 8. Teacher-first: teacher to stride
    # 4, with its map at stride 2 for the head, then student to 8.
    assert names == [
        "student_first_adapter_1",
        "student_first_adapter_2",
        "teacher_first_feature_adapter_2",
        "teacher_first_adapter_1",
    ]
    images, _ = tiny.batch()
    model.compile(keras.optimizers.SGD(0.1))
    before = [adapter.convolution.kernel.numpy() for adapter in model.adapters]
    model.fit(images, targets(images), verbose=0)
    for adapter, old in zip(model.adapters, before):
        assert not np.array_equal(adapter.convolution.kernel.numpy(), old), adapter.name


def test_own_loss_applies_to_all_paths():
    student = Detector(backbone(norm=False))
    model = HybridTransfer(tiny.teacher(), student)
    model.compile(keras.optimizers.SGD(0.0))
    images, _ = tiny.batch()
    y = targets(images)
    logs = model.train_on_batch(images, y, return_dict=True)
    names = "student_first_loss", "teacher_first_loss", "student_loss"
    for name, path in zip(names, model.paths):
        expected = np.mean((np.array(path(images)) - y[..., None]) ** 2)
        assert logs[name] == pytest.approx(expected, rel=1e-5)
    losses = model.evaluate(images, y, verbose=0, return_dict=True)
    assert losses["loss"] == pytest.approx(logs["student_loss"], rel=1e-5)


def test_student_stages_deeper_than_the_teacher_belong_to_the_head():
    teacher = tiny.teacher(channels=(6, 8))  # strides 2 and 4: the joint is at 4
    model = HybridTransfer(teacher, Detector())
    assert [segment.end.stride for segment in model.paths[0].segments] == [2, 4]
    model.compile("sgd")
    images, _ = tiny.batch()
    model.fit(images, targets(images), verbose=0)


def test_a_scale_that_the_teacher_lacks_comes_from_its_nearest_stage():
    x = image = keras.Input((32, 32, 3))
    x = layers.Conv2D(5, 4, strides=4, name="stem")(x)
    x = layers.Conv2D(7, 3, strides=2, padding="same", name="deep")(x)
    model = HybridTransfer(keras.Model(image, x), Detector())
    (feature,) = model.paths[1].segments[0].features
    assert (feature.wanted.layer_name, feature.wanted.stride) == ("out1", 2)
    assert (feature.found.layer_name, feature.found.stride) == ("stem", 4)
    model.compile("sgd")
    images, _ = tiny.batch()
    model.fit(images, targets(images), verbose=0)


def test_a_head_can_take_a_map_inside_a_stage():
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="out1")(image)
    inner = layers.Conv2D(4, 3, padding="same", name="inner")(x)
    x = layers.Add()([x, inner])
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="out2")(x)
    student = Detector(keras.Model(image, {"p1": inner, "p2": x, "p3": x}))
    model = HybridTransfer(tiny.teacher(), student)
    (feature,) = model.paths[1].segments[0].features
    assert (feature.wanted.layer_name, feature.found.layer_name) == ("inner", "out1")
    model.compile("sgd")
    images, _ = tiny.batch()
    model.fit(images, targets(images), verbose=0)


def test_a_detector_can_be_the_teacher():
    model = HybridTransfer(Detector(), tiny.student())
    assert [s.end.stride for s in model.paths[1].segments] == [2, 4, 8]
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    before = [w.numpy() for w in model.teacher.weights]
    model.fit(*tiny.batch(), verbose=0)
    for weight, old in zip(model.teacher.weights, before):
        np.testing.assert_array_equal(weight.numpy(), old)


def test_a_saved_model_predicts_and_trains_as_before(tmp_path, eager):
    model = HybridTransfer(tiny.teacher(), Detector())
    model.compile("adam")
    images, _ = tiny.batch()
    model.fit(images, targets(images), verbose=0)
    model.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")
    np.testing.assert_array_equal(
        model.predict(images, verbose=0), loaded.predict(images, verbose=0)
    )
    logs = [m.fit(images, targets(images), verbose=0).history for m in (model, loaded)]
    assert logs[0] == logs[1]
