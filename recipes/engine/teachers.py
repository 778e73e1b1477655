"""Teachers for the synthetic data, trained on first use and then cached."""

import math
import os
import pathlib

import keras
import numpy as np
from absl import logging
from keras import ops

from keras_hybrid import applications, find_stages
from keras_hybrid.data import classification, segmentation, streets
from keras_hybrid.models.segmentation.deeplab_v2 import deeplab_v2
from keras_hybrid.models.torch_resnet50 import resnet50
from keras_hybrid.recipes.engine import networks, run, synthetic
from keras_hybrid.recipes.engine.workdir import check_writable, save_model

# Increase it with every change of the synthetic data or of a teacher's training.
_VERSION = 7
_JOINT_STRIDE, _JOINT_WEIGHT = 16, 10.0


def street_classifier(
    crops: classification.ArraySource, classes: int, size: int
) -> pathlib.Path:
    """ResNet-26 for street crops, from raw RGB (B, size, size, 3) to probabilities.

    It has half a ResNet-50's channels and two blocks per stage: after six epochs of 4000
    crops it was more accurate than one with all blocks (84.0 against 68.4 % of 1000 test
    crops), in three fifths of the time.

    Args:
        crops: Source of the training images.
        classes: Number of classes.
        size: Height and width of the images in pixels.

    Returns:
        Path of the `.keras` file, as of all teachers here.
    """

    def train():
        network = resnet50(widths=(32, 64, 128, 256), blocks=(2, 2, 2, 2))
        features = applications.with_preprocessing(network, "torch")
        image = keras.Input((size, size, 3), name="image")
        pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features(image))
        head = keras.layers.Dense(classes, activation="softmax", name="probabilities")
        model = keras.Model(image, head(pooled), name="street_classifier")
        trained = run.Alone(model.input, model.output)
        batch_size, epochs = 128, 6
        steps = epochs * (len(crops) // batch_size)
        loss = "sparse_categorical_crossentropy"
        trained.compile(_optimizer(steps, 4e-3), loss=loss, metrics=["accuracy"])
        _fit(
            trained, crops, classification.augment.pad_crop_flip(size), batch_size, epochs
        )
        return model

    return _cached(f"street_classifier_{size}px", train)


def street_segmenter() -> pathlib.Path:
    """DeepLab v2 on DenseNet-121 for streets at dusk, from raw RGB (B, H, W, 3).

    Trained from scratch, it takes a third of the steps that a ResNet-50 takes.
    """

    def train():
        data = synthetic.streets_with_labels("dusk")
        backbone = networks.from_scratch("DenseNet121")
        model = deeplab_v2(backbone, len(data.class_names), output_stride=16)
        batch_size, epochs = 4, 8
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=segmentation.IGNORED
        )
        steps = epochs * (len(data.train) // batch_size)
        trained = run.Alone(model.input, model.output)
        trained.compile(_optimizer(steps), loss=loss, metrics=["accuracy"])
        transform = segmentation.augment.random_scale_crop_flip(synthetic.STREET_CROP)
        _fit(trained, data.train, transform, batch_size, epochs)
        return model

    return _cached("street_segmenter", train)


def pose_network() -> pathlib.Path:
    """DenseNet-121 that was trained to find the joints of people at dusk, from raw RGB.

    It ends at stride 16, without the layer that predicted the joints.
    """

    def train():
        images, joints = joints_at_dusk(400)
        network = networks.from_scratch("DenseNet121")
        end = next(s for s in find_stages(network) if s.stride == _JOINT_STRIDE)
        features = keras.Model(
            network.input, network.get_layer(end.layer_name).output, name="pose_network"
        )
        head = keras.layers.Conv2D(len(streets.KEYPOINTS), 1, name="joints")
        trained = run.Alone(features.input, head(features.output))
        batch_size, epochs = 16, 3
        steps = epochs * math.ceil(len(images) / batch_size)
        trained.compile(_optimizer(steps, 1e-3), loss=_joint_loss)
        trained.fit(images, joints, batch_size=batch_size, epochs=epochs)
        return features

    return _cached("pose_network", train)


def _cached(name, train):
    """Path of a network's file; if it does not exist, `train()` returns the network."""
    path = cache_dir() / f"{name}_v{_VERSION}.keras"
    if not path.exists():
        check_writable(path.parent, "XDG_CACHE_HOME/keras_hybrid", path.parent)
        logging.info("Training the teacher for the synthetic data, once: %s", path)
        keras.utils.set_random_seed(0)
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("float32")  # whatever the run's, since it is cached
        try:
            save_model(train(), path)
        finally:
            keras.config.set_dtype_policy(policy)
    return path


def _fit(model, source, transform, batch_size, epochs):
    batches = source.training_batches(batch_size, transform, 0, range(epochs))
    steps_per_epoch = len(source) // batch_size
    model.fit(batches, epochs=epochs, steps_per_epoch=steps_per_epoch, shuffle=False)


def _optimizer(steps, peak=5e-4):
    schedule = keras.optimizers.schedules.PolynomialDecay(
        peak, steps, end_learning_rate=0.0, power=0.9
    )
    return keras.optimizers.Adam(schedule)


def joints_at_dusk(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns crops of `count` streets (N, 64, 128, 3) and their joints (N, 4, 8, 17)."""
    images, joints = [], []
    height, width = synthetic.STREET_CROP
    for i in range(count):
        scene = streets.scene(i, size=synthetic.STREET_SIZE, domain="dusk", seed=0)
        cells = _cells_with_joints(scene.keypoints)
        # Heads are in the middle of the picture, feet in its lower half.
        top = height // 2 if i % 2 else synthetic.STREET_SIZE[0] - height
        for left in range(0, synthetic.STREET_SIZE[1], width):
            rows, columns = slice(top, top + height), slice(left, left + width)
            images.append(scene.image[rows, columns])
            joints.append(cells[_in_cells(rows), _in_cells(columns)])
    return np.stack(images), np.stack(joints)


def _in_cells(pixels):
    return slice(pixels.start // _JOINT_STRIDE, pixels.stop // _JOINT_STRIDE)


def _cells_with_joints(keypoints):
    """uint8 (H / 16, W / 16, 17), 1 in the cells of joints of keypoints (N, 17, 3)."""
    rows, columns = (n // _JOINT_STRIDE for n in synthetic.STREET_SIZE)
    cells = np.zeros((rows, columns, keypoints.shape[1]), "uint8")
    person, joint = np.nonzero(keypoints[..., 2])
    column, row = (keypoints[person, joint, :2] // _JOINT_STRIDE).astype(int).T
    cells[row, column, joint] = 1
    return cells


def _joint_loss(joints, logits):
    """Cross entropy in which the few cells with a joint have a higher weight."""
    joints = ops.cast(joints, "float32")
    loss = ops.binary_crossentropy(joints, logits, from_logits=True)
    return ops.mean(loss * (1 + _JOINT_WEIGHT * joints))


def cache_dir() -> pathlib.Path:
    """Returns `$XDG_CACHE_HOME/keras_hybrid`, by default ~/.cache/keras_hybrid."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "keras_hybrid"
