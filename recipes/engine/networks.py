"""The networks that the recipes start from."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from absl import logging

from keras_hybrid import applications
from keras_hybrid.export.student import check_file, image_input, load
from keras_hybrid.hybrid import graph
from keras_hybrid.hybrid.stages import Network
from keras_hybrid.hybrid.switch_points import common_strides
from keras_hybrid.models import torchvision
from keras_hybrid.models.state_dict import FILES
from keras_hybrid.recipes.engine import settings
from keras_hybrid.training.types import Tensor

_IMAGENET_CLASSES = 1000  # which the networks of Keras Applications predict

ANY_SIZE = None, None
"""Height and width of images of any size."""


def from_scratch(name: str, **kwargs: Any) -> keras.Model:
    """Returns `applications.load` with random weights and fast moving averages.

    With Keras's default momentum of 0.99 the moving variances keep part of their initial
    value, 1, for hundreds of steps: after 455 on CamVid those of a MobileNet were up to
    five times too large, and a student with 27 % mIoU on its training batches had 3 %
    with them. 0.9 is PyTorch's default, called 0.1 there.
    """
    network = applications.load(name, weights=None, **kwargs)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    return network


def check(config: settings.Config) -> None:
    """Refuses flags that name no network or no weights, which takes no data.

    Raises:
        FileNotFoundError: A file does not exist or cannot be read.
        ValueError: Keras Applications has no such network, or there are no such weights.
    """
    flags = "student", "student_backbone"
    named = [(flag, getattr(config, flag, "")) for flag in flags]
    if config.method != "none":
        if config.data_dir and not config.teacher:
            rule = "given with --data_dir, unless --method=none"
            settings.refuse("teacher", rule, config.teacher)
        named += [("teacher", name) for name, _ in settings.teachers_of(config)]
    for flag, name in named:
        if name.endswith(".keras") or is_state_dict(name):
            check_file(name, f"--{flag}")
        elif name:
            by_name(flag, name, applications.check_name)
    weights = config.student_weights
    if weights not in ("imagenet", "random") and not os.path.isfile(weights):
        rule = "imagenet, random or a weights file that exists"
        settings.refuse("student_weights", rule, weights)


def is_state_dict(name: str) -> bool:
    """Whether a flag names a file of PyTorch's weights."""
    return pathlib.Path(name).suffix in FILES


def backbone(config: settings.Config, flag: str) -> keras.Model:
    """Returns the student's backbone that a flag names."""
    name = getattr(config, flag)
    if is_state_dict(name):
        return torchvision.load(name)
    return of_student(config, flag, input_shape=(*ANY_SIZE, 3))


def of_student(config: settings.Config, flag: str, **kwargs: Any) -> keras.Model:
    """Returns the network of Keras Applications that a flag of the student names.

    It has the weights of --student_weights, and random ones on synthetic data.

    Args:
        config: Config of the recipe.
        flag: Name of the flag.
        **kwargs: Arguments of `applications.load`.
    """
    name, weights = getattr(config, flag), config.student_weights
    if weights == "random" or not config.data_dir:
        return by_name(flag, name, from_scratch, **kwargs)
    return by_name(flag, name, weights=weights, **kwargs)


def teacher(
    config: settings.Config, size: tuple[int, int] | None, **kwargs: Any
) -> keras.Model | list[keras.Model]:
    """Returns the network of --teacher, which takes raw RGB, or a list of several.

    Args:
        config: Config of the recipe.
        size: (height, width) of the training images, which the teacher must take with
            `--method=kd` or `--plus=kd` only: KD runs the whole teacher, the others parts
            of it, which take other sizes than the whole was built for.
        **kwargs: Arguments of `applications.load` for a network of Keras Applications.
    """
    found = []
    for name, scheme in settings.teachers_of(config):
        network = _teacher(config, name, scheme, **kwargs)
        if settings.distils(config):
            network = _taking("teacher", name, network, size)
        found.append(network)
    return found[0] if len(found) == 1 else found


def _teacher(config, name, scheme, **kwargs):
    if scheme != "inside" and not name.endswith(".keras"):
        rule = f"inside with {name}, whose preprocessing is known"
        settings.refuse("teacher_preprocessing", rule, scheme)
    if is_state_dict(name):
        return torchvision.load(name, config.teacher_epsilon or None)
    if not name.endswith(".keras"):
        return by_name("teacher", name, **kwargs)
    network = load(name, "--teacher")
    if scheme != "inside" and graph.functional(network) is None:
        rule = "inside with a teacher that is not a Functional model"
        settings.refuse("teacher_preprocessing", rule, scheme)
    return applications.with_preprocessing(network, scheme)


def by_name(
    flag: str,
    name: str,
    make: Callable[..., keras.Model] = applications.load,
    **kwargs: Any,
) -> keras.Model:
    """Returns `make(name, **kwargs)`, of Keras Applications; errors name the flag."""
    try:
        return make(name, **kwargs)
    except ConnectionError as error:
        file = "--teacher=FILE.keras"
        remedy = file if flag == "teacher" else "--student_weights=random, or a file"
        reason = " ".join(str(error.__cause__).split())[:300]
        raise ConnectionError(
            f"The ImageNet weights of --{flag}={name} could not be downloaded. Pass "
            f"{remedy}. The download failed with: {reason}"
        ) from error
    except ValueError as error:
        if pathlib.Path(name).suffix or os.path.exists(name):  # meant as a file
            endings = ", ".join([".keras", *FILES])
            rule = f"a network of Keras Applications, or a file that ends in {endings}"
            settings.refuse(flag, rule, name)
        raise ValueError(f"--{flag}={name}: {error}") from error


def from_file(flag: str, path: str, size: tuple[int | None, int | None]) -> keras.Model:
    """Returns the network of a .keras file, which must take raw RGB (B, *size, 3).

    Args:
        flag: Name of the flag that gives the file, such as `"student"`.
        path: Path of the file.
        size: (height, width) of the images, None for any.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file contains no such network; the message is one line.
    """
    return _taking(flag, path, load(path, f"--{flag}"), size)


def _taking(flag, value, network, size):
    """Returns `network`; refuses it unless it takes batches of images of that size."""
    expected = None, *size, 3
    try:
        shape = tuple(image_input(network).shape)
    except ValueError as error:
        raise ValueError(f"--{flag}={value}: {error}") from error
    fixed = [n for n in zip(shape[1:3], size, strict=True) if n[0] is not None]
    if shape[0] is not None or shape[3] != 3 or any(one != n for one, n in fixed):
        settings.refuse(
            flag,
            f"a network of RGB images of shape {expected}, built on `keras.Input("
            f"{expected[1:]})`",
            f"{value}, which takes {shape}",
        )
    return network


def outputs_for_noise(network: keras.Model, height: int, width: int) -> Any:
    """Returns the network's outputs for an image (1, height, width, 3) of noise."""
    noise = np.random.default_rng(0).uniform(0, 255, (1, height, width, 3))
    return network(noise.astype("float32"), training=False)


def are_probabilities(outputs: Tensor) -> bool:
    """Whether values (..., C) are at least 0 and sum to 1, as after a softmax."""
    outputs = keras.ops.convert_to_numpy(outputs).astype("float32")
    return bool((outputs >= 0).all() and np.allclose(outputs.sum(-1), 1, atol=1e-2))


def classifier_to_distil(
    config: settings.Config, size: tuple[int, int], classes: int
) -> keras.Model:
    """Returns the network of --teacher for --method=kd, from raw RGB to logits.

    It refuses a classifier with random weights.

    Args:
        config: Config of the recipe.
        size: (height, width) of the images in pixels.
        classes: Number of classes of the data.
    """
    if not config.teacher.endswith(".keras") and classes != _IMAGENET_CLASSES:
        train = f"--method=none --student={config.teacher} --workdir=runs/teacher"
        if config.data_dir:
            train = f"--data_dir={config.data_dir} {train} --student_weights=imagenet"
        settings.refuse(
            "teacher",
            f"a .keras file of a network that was trained on the {classes} classes of "
            "the data, with --method=kd: the networks of Keras Applications were trained "
            f"on the {_IMAGENET_CLASSES} classes of ImageNet. Train one first, with "
            f"python -m keras_hybrid.recipes.imagenet {train}, and pass "
            "--teacher=runs/teacher/student.keras",
            config.teacher,
        )
    # float16 is too coarse for a softmax over 1000 classes.
    head = {"classes": _IMAGENET_CLASSES, "classifier_activation": None}
    return teacher(config, size, **head)


def switch_points(
    config: settings.Config,
    teacher: keras.Model | list[keras.Model],
    student: keras.Model,
) -> tuple[int, ...] | None | list[tuple[int, ...] | None]:
    """Returns the strides of --switch_points, or None for all that both networks have.

    Networks that lack one of the default strides get None. So do the baselines, which
    compare feature maps at every common stride. For several teachers, one for each.
    """
    return for_each(teacher, lambda one: _switch_points(config, one, student))


def for_each(
    teacher: keras.Model | list[keras.Model], function: Callable[[keras.Model], Any]
) -> Any:
    """Returns what a function returns for a teacher, or a list for several."""
    if isinstance(teacher, list):
        return [function(one) for one in teacher]
    return function(teacher)


def _switch_points(config, teacher, student):
    points = settings.switch_points_of(config)
    if config.method != "hybrid" or points is None:
        return None
    both = Network(teacher, "teacher"), Network(student, "student")
    *before_joint, _ = common_strides(*both) or [None]
    if set(points) <= set(before_joint):
        return points
    if config.switch_points != type(config).switch_points:
        rule = f'strides out of {before_joint}, or "all"'
        settings.refuse("switch_points", rule, config.switch_points)
    logging.info("Paths change network at every stride that both have: %s", before_joint)
    return None
