"""Prepares the images, teachers and students from which the runs of the study start."""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from PIL import Image

from benchmarks import transformers as networks_of_tokens
from benchmarks.study import cases, several, transformers
from benchmarks.study.cifar10 import GPU_TEACHER, IMAGENET_TEACHER, MOBILENET
from benchmarks.study.plan import HALF_VGG16, MORE_SEEDS, RANDOM_TEACHER, SEEDS
from keras_hybrid import applications
from keras_hybrid.training import atomic_write

TEACHERS = "vgg16_imagenet.keras", "pose_mobilenet_coco_backbone.keras"
STUDENT = "mobilenetv2_imagenet.keras"
_CALTECH_SIZE, _CALTECH_CLASSES, _CAMVID_CLASSES = 64, 101, 11


def prepare(materials: pathlib.Path, work: pathlib.Path) -> None:
    """Links the materials into `work`, splits CIFAR-10 and saves the initial networks."""
    # Needs TensorFlow, unlike the parts of this module that `gpu run` uses.
    from keras_hybrid.recipes.engine.workdir import save_model

    work.mkdir(parents=True, exist_ok=True)
    teachers = (*TEACHERS, several.XCEPTION_FILE)
    links = {name: materials / "teachers" / name for name in teachers}
    links[STUDENT] = materials / "students" / STUDENT
    links["camvid"] = materials / "camvid"
    validation = work / "camvid_validation"
    validation.mkdir(exist_ok=True)
    for part in (materials / "camvid").iterdir():
        if "test" not in part.name:
            links[f"camvid_validation/{part.name}"] = part
    for name, target in links.items():
        if target.exists() and not (work / name).exists():
            (work / name).unlink(missing_ok=True)  # a link to where it was before
            (work / name).symlink_to(target)
    if not (work / HALF_VGG16).exists():
        network = keras.saving.load_model(work / TEACHERS[0])
        in_bfloat16(network)
        save_model(network, work / HALF_VGG16)
    if not (work / "cifar10_validation.npz").exists():
        split_cifar10(materials / "cifar10.npz", work)
    if not (work / RANDOM_TEACHER).exists():
        teacher = with_classifier(work / TEACHERS[0], "torch", 10)
        save_model(teacher, work / IMAGENET_TEACHER)
        reinitialize(teacher)
        save_model(teacher, work / RANDOM_TEACHER)
    if not (work / GPU_TEACHER).exists():
        # It has the same architecture; its weights are trained on the GPU.
        (work / GPU_TEACHER).symlink_to(IMAGENET_TEACHER)
    if not (work / "cifar10.npz").exists():
        (work / "cifar10.npz").symlink_to(materials / "cifar10.npz")
    for name, file in transformers.NETWORKS.items():
        if not (work / file).exists():
            keras.utils.set_random_seed(0)
            save_model(getattr(networks_of_tokens, name.lower())(), work / file)
    for seed in MORE_SEEDS:
        student = work / MOBILENET.format(seed)
        if not student.exists():
            save_model(mobilenet(seed, 32, 10), student)
    photographs = materials / "caltech101"
    if photographs.exists() and not (work / cases.CALTECH_VALIDATION).exists():
        squeeze_caltech101(photographs, work / several.CALTECH)
        hold_out(work / several.CALTECH, work / cases.CALTECH_VALIDATION)
    if (work / STUDENT).exists():
        for name, make in networks_of_cases(work).items():
            if not (work / name).exists():
                save_model(make(), work / name)


def networks_of_cases(work: pathlib.Path) -> dict[str, Callable[[], keras.Model]]:
    """Returns functions that make the networks of `cases`, by the name of the file."""
    from keras_hybrid.models.segmentation.deeplab_v2 import deeplab_v2

    def backbone():
        network = keras.saving.load_model(work / STUDENT)
        network.trainable = True
        return applications.with_preprocessing(network, "torch")

    def segmenter(seed):
        keras.utils.set_random_seed(seed)
        return deeplab_v2(backbone(), _CAMVID_CLASSES, output_stride=16)

    size, classes, xception = _CALTECH_SIZE, _CALTECH_CLASSES, several.XCEPTION_FILE
    found = {
        cases.XCEPTION_START: lambda: with_classifier(work / xception, "tf", classes),
        cases.BACKBONE: backbone,
    }
    for seed in SEEDS:
        of_seed = {
            cases.SCRATCH: functools.partial(mobilenet, seed, size, classes, alpha=0.5),
            cases.PRETRAINED: functools.partial(
                with_classifier, work / STUDENT, "torch", classes, seed
            ),
            cases.SEGMENTER: functools.partial(segmenter, seed),
        }
        found |= {name.format(seed): make for name, make in of_seed.items()}
    return found


def mobilenet(seed: int, size: int, classes: int, **kwargs: Any) -> keras.Model:
    """Returns a MobileNet with initial weights, for images of size x size pixels."""
    from keras_hybrid.recipes.engine import networks

    keras.utils.set_random_seed(seed)
    shape = size, size, 3
    return networks.from_scratch(
        "MobileNet", input_shape=shape, classes=classes, **kwargs
    )


def with_classifier(
    path: str | os.PathLike, scheme: str, classes: int, seed: int = 0
) -> keras.Model:
    """Returns a network from a file with a new classifier, for raw RGB.

    Args:
        path: File of the network.
        scheme: Preprocessing that it needs.
        classes: Number of classes.
        seed: Random seed of the classifier's weights.
    """
    keras.utils.set_random_seed(seed)
    network = keras.saving.load_model(path)
    network.trainable = True
    network = applications.with_preprocessing(network, scheme)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(network.output)
    x = keras.layers.Dense(classes, activation="softmax", name="classifier")(x)
    return keras.Model(network.input, x, name=pathlib.Path(path).stem)


def in_bfloat16(network: keras.Model) -> None:
    """Makes convolutions and max pooling compute in bfloat16.

    Weights and other layers do not change.
    """
    for layer in network.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.MaxPooling2D)):
            layer.dtype_policy = keras.DTypePolicy("mixed_bfloat16")


def reinitialize(network: keras.Model) -> None:
    """Reinitialises a network so that feature maps keep their scale (He et al., 2015)."""
    for i, kernel in enumerate(w for w in network.weights if w.name == "kernel"):
        kernel.assign(keras.initializers.HeNormal(seed=i)(kernel.shape))
    for bias in (w for w in network.weights if w.name == "bias"):
        bias.assign(keras.ops.zeros(bias.shape))


def split_cifar10(path: str | os.PathLike, work: pathlib.Path) -> None:
    """Writes the subsets of CIFAR-10.

    Training images are the first 5000, or the first 500 ten times. Validation images, on
    which weights are tuned, are the last 5000 training images.
    """
    with np.load(path) as arrays:
        x, y = arrays["x_train"], arrays["y_train"]
        test = {"x_test": arrays["x_test"], "y_test": arrays["y_test"]}
    validation = {"x_test": x[-5000:], "y_test": y[-5000:]}
    for name, count, tested in (
        ("cifar10_5k", 5000, test),
        ("cifar10_500", 500, test),
        ("cifar10_validation", 5000, validation),
    ):
        chosen = np.arange(5000) % count
        save_arrays(work / f"{name}.npz", x_train=x[chosen], y_train=y[chosen], **tested)


def squeeze_caltech101(folder: pathlib.Path, path: pathlib.Path) -> None:
    """Writes the photographs of class folders in train/ and val/ as arrays."""
    classes = sorted(entry.name for entry in (folder / "train").iterdir())
    arrays = {}
    for split, suffix in (("train", "train"), ("val", "test")):
        files = [
            (file, label)
            for label, name in enumerate(classes)
            for file in sorted((folder / split / name).iterdir())
        ]
        images = []
        for file, _ in files:
            with Image.open(file) as image:
                small = image.convert("RGB").resize((_CALTECH_SIZE, _CALTECH_SIZE))
            images.append(np.asarray(small))
        arrays[f"x_{suffix}"] = np.stack(images)
        arrays[f"y_{suffix}"] = np.array([label for _, label in files])
    save_arrays(path, **arrays)


def hold_out(path: pathlib.Path, new_path: pathlib.Path) -> None:
    """Writes arrays whose test images are the last five training images of each class."""
    with np.load(path) as arrays:
        x, y = arrays["x_train"], arrays["y_train"]
    held = np.zeros(len(y), bool)
    for label in np.unique(y):
        held[np.flatnonzero(y == label)[-5:]] = True
    tested = {"x_test": x[held], "y_test": y[held]}
    save_arrays(new_path, x_train=x[~held], y_train=y[~held], **tested)


def save_arrays(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes an .npz file, whole or not at all."""
    with atomic_write.staged(path) as new, open(new, "wb") as file:
        np.savez(file, **arrays)
