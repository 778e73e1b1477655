"""The embedded world's data sets and teachers, trained on first use and then cached."""

import os
import pathlib

import keras
import numpy as np
from absl import logging
from keras import ops

from keras_hybrid import applications, find_stages
from keras_hybrid.data import augment, augment_maps, label_maps, people, streets
from keras_hybrid.data.sources import ArraySource
from keras_hybrid.models.deeplab_v2 import deeplab_v2
from keras_hybrid.recipes.workdir import save_model

# Another drawing or another training makes another teacher: raise it then.
_VERSION = 4
STREET_SIZE = 128, 256
"""(height, width) of drawn streets in pixels."""
STREET_CROP = 64, 128
"""The part of them that segmenters train on: small, so that the steps can be many."""
_PERSONS = "pedestrian", "rider"
_JOINT_STRIDE, _JOINT_WEIGHT = 16, 10.0
MIN_HEIGHT = 16
"""Pixels of the lowest people in them to learn from."""


def street_classifier(crops, classes, size):
    """ResNet-50 for street crops, from raw RGB (B, size, size, 3) to probabilities.

    Args:
        crops: The `ArraySource` to train it on.
        classes: How many it tells apart.
        size: Height and width in pixels.

    Returns:
        The `pathlib.Path` of the `.keras` file.
    """
    path = cache_dir() / f"street_classifier_{size}px_v{_VERSION}.keras"
    if not path.exists():
        logging.info("Training the teacher of the embedded world, once, for %s", path)
        keras.utils.set_random_seed(0)
        model = applications.load(
            "ResNet50", weights=None, input_shape=(size, size, 3), classes=classes
        )
        loss = "sparse_categorical_crossentropy"
        model.compile("adam", loss=loss, metrics=["accuracy"])
        transform = augment.pad_crop_flip(size)
        batch_size, epochs = 64, 8
        batches = crops.training_batches(batch_size, transform, 0, range(epochs))
        steps_per_epoch = len(crops) // batch_size
        model.fit(batches, epochs=epochs, steps_per_epoch=steps_per_epoch, shuffle=False)
        save_model(model, path)
    return path


def streets_with_labels(domain, training_images=400, test_images=100):
    """The `LabelMaps` of drawn streets of a domain, `"day"` or `"dusk"`."""

    def source(count, seed):
        scenes = [
            streets.scene(i, size=STREET_SIZE, domain=domain, seed=seed)
            for i in range(count)
        ]
        images = np.stack([scene.image for scene in scenes])
        labels = np.stack([scene.label_map for scene in scenes])
        return label_maps.source_of_arrays(images, labels)

    return label_maps.LabelMaps(
        source(training_images, seed=0), source(test_images, seed=1), streets.LABELS
    )


def street_segmenter():
    """DeepLab v2 on DenseNet-121 for streets at dusk, from raw RGB (B, H, W, 3).

    It takes a third of the steps from scratch that a ResNet-50 takes.

    Returns:
        The `pathlib.Path` of the `.keras` file.
    """
    path = cache_dir() / f"street_segmenter_v{_VERSION}.keras"
    if not path.exists():
        logging.info("Training the teacher of the embedded world, once, for %s", path)
        data = streets_with_labels("dusk")
        keras.utils.set_random_seed(0)
        backbone = applications.load("DenseNet121", weights=None)
        model = deeplab_v2(backbone, len(data.class_names), output_stride=16)
        batch_size, epochs = 4, 8
        steps_per_epoch = len(data.train) // batch_size
        schedule = keras.optimizers.schedules.PolynomialDecay(
            5e-4, epochs * steps_per_epoch, end_learning_rate=0.0, power=0.9
        )
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=label_maps.IGNORED
        )
        optimizer = keras.optimizers.Adam(schedule)
        model.compile(optimizer, loss=loss, metrics=["accuracy"])
        transform = augment_maps.random_scale_crop_flip(STREET_CROP)
        batches = data.train.training_batches(batch_size, transform, 0, range(epochs))
        model.fit(batches, epochs=epochs, steps_per_epoch=steps_per_epoch, shuffle=False)
        save_model(model, path)
    return path


def streets_with_people(domain, training_images=400, test_images=100):
    """The `Pedestrians` of drawn streets of a domain, `"day"` or `"dusk"`."""

    def source(count, seed):
        scenes = [
            streets.scene(i, size=STREET_SIZE, domain=domain, seed=seed)
            for i in range(count)
        ]
        return people.PeopleSource(
            ArraySource(np.stack([scene.image for scene in scenes]), np.arange(count)),
            [f"{domain} street {i}" for i in range(count)],
            [_people_of(scene) for scene in scenes],
            min_height=MIN_HEIGHT,
        )

    return people.Pedestrians(source(training_images, 0), source(test_images, 1))


def _people_of(scene):
    """Pedestrians; riders are ignored, as in CityPersons."""
    persons = np.isin(scene.classes, [streets.THINGS.index(n) for n in _PERSONS])
    boxes, shown = scene.boxes[persons], scene.visible_boxes[persons]
    visibility = (shown[:, 2] * shown[:, 3]) / (boxes[:, 2] * boxes[:, 3])
    riders = scene.classes[persons] == streets.THINGS.index("rider")
    return people.People(boxes.astype("float64"), visibility.clip(0, 1), riders)


def pose_network():
    """DenseNet-121 that was taught the joints of people at dusk, from raw RGB.

    Returns:
        The `pathlib.Path` of the `.keras` file: the network up to stride 16, without the
        layer that marked joints.
    """
    path = cache_dir() / f"pose_network_v{_VERSION}.keras"
    if not path.exists():
        logging.info("Training the teacher of the embedded world, once, for %s", path)
        images, joints = _joints_at_dusk(400)
        keras.utils.set_random_seed(0)
        network = applications.load("DenseNet121", weights=None)
        end = next(s for s in find_stages(network) if s.stride == _JOINT_STRIDE)
        features = keras.Model(
            network.input, network.get_layer(end.layer_name).output, name="pose_network"
        )
        marks = keras.layers.Conv2D(len(streets.KEYPOINTS), 1, name="joints")
        model = keras.Sequential([features, marks])
        batch_size, epochs = 4, 3
        schedule = keras.optimizers.schedules.PolynomialDecay(
            5e-4, epochs * (len(images) // batch_size), end_learning_rate=0.0, power=0.9
        )
        model.compile(keras.optimizers.Adam(schedule), loss=_joint_loss)
        model.fit(images, joints, batch_size=batch_size, epochs=epochs)
        save_model(features, path)
    return path


def _joints_at_dusk(count):
    """Parts of drawn streets (N, 64, 128, 3) and where joints are (N, 4, 8, 17)."""
    images, joints = [], []
    height, width = STREET_CROP
    for i in range(count):
        scene = streets.scene(i, size=STREET_SIZE, domain="dusk", seed=0)
        cells = np.zeros(
            (STREET_SIZE[0] // _JOINT_STRIDE, STREET_SIZE[1] // _JOINT_STRIDE, 17),
            "uint8",
        )
        for person in scene.keypoints:
            for joint, (x, y, visible) in enumerate(person):
                row, column = int(y // _JOINT_STRIDE), int(x // _JOINT_STRIDE)
                if visible and 0 <= row < len(cells) and 0 <= column < cells.shape[1]:
                    cells[row, column, joint] = 1
        # The lower half, where people are, in two.
        top = STREET_SIZE[0] - height
        for left in range(0, STREET_SIZE[1], width):
            images.append(scene.image[top:, left : left + width])
            first = left // _JOINT_STRIDE
            part = cells[top // _JOINT_STRIDE :, first : first + width // _JOINT_STRIDE]
            joints.append(part)
    return np.stack(images), np.stack(joints)


def _joint_loss(joints, logits):
    """Cross entropy in which the few cells with a joint weigh as much as the others."""
    joints = ops.cast(joints, "float32")
    loss = ops.binary_crossentropy(joints, logits, from_logits=True)
    return ops.mean(loss * (1 + _JOINT_WEIGHT * joints))


def quicken_norms(model):
    """Lets moving averages follow within tens of steps, as runs of minutes need it.

    Keras Applications' own take hundreds: a MobileNet was right about 57 % of the pixels
    of its training batches, and 30 % with its averages.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9


def cache_dir():
    """`$XDG_CACHE_HOME/keras_hybrid`, by default ~/.cache/keras_hybrid."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "keras_hybrid"
