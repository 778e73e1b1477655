"""Table 1 of the paper: ResNet-50 teaches MobileNet V1 to classify ImageNet.

The paper's run, batch 256, lr 0.1 divided by 10 every 30 epochs, plain sum of losses,
paths of 46, 32 and 28 layers that change network at strides 2, 8 and 16:

    python -m keras_hybrid.recipes.imagenet --data_dir=/data/tfds --workdir=runs/table1

On GPUs add --mixed_precision, on several of them --strategy=mirrored.

Paper: top-1 71.39 with the teacher, 68.87 without. Ours: not yet measured. The same on
CIFAR-10 in docs/results.md. Without --data_dir it runs on drawn street crops, a stand-in
for trying it out, and evidence of nothing:

    python -m keras_hybrid.recipes.imagenet --workdir=runs/first --epochs=6 \
        --batch_size=64 --balance=dynamic --export=tflite
"""

import dataclasses
import os
from typing import Literal

import keras
import numpy as np
from absl import logging
from ai_edge_litert.interpreter import Interpreter

from keras_hybrid.data import classification, streets
from keras_hybrid.hybrid.stages import Network
from keras_hybrid.models.segmentation.deeplab_v2 import at_size
from keras_hybrid.recipes import (
    devices,
    networks,
    run,
    settings,
    shell,
    teachers,
    workdir,
)

# Height and width in pixels: of ImageNet's crops, and of the drawn ones.
_PHOTOGRAPH, _DRAWN = 224, 32
# Classes that the networks of Keras Applications tell apart.
_OF_IMAGENET = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings; the defaults are the paper's."""

    data_dir: str = ""
    """TFDS folder with imagenet2012, folder of class folders, or .npz; else drawn."""
    workdir: str = "runs/imagenet"
    """Where config, metrics, student and exports go."""
    teacher: str = "ResNet50"
    """Keras Applications network with ImageNet weights, or a .keras file."""
    teacher_preprocessing: Literal["inside", "caffe", "tf", "torch", "bgr"] = "inside"
    """What a teacher from a file needs before it."""
    student: str = "MobileNet"
    """Keras Applications network to train from scratch, or .keras file to go on with."""
    method: settings.Method = "hybrid"
    """Hybrid forward, the student alone, or one of keras_hybrid.baselines."""
    method_weight: float | None = None
    """Of the loss of such a baseline; its paper's, or 1, if not given."""
    balance: str = "1"
    """"dynamic" or a fixed alpha; the paper's Table 1 adds the plain losses."""
    switch_points: str = "2,8,16"
    """Strides at which hybrid paths change network, or "all" that both networks have."""
    epochs: int = 90
    """Passes through the training images."""
    batch_size: int = 256
    """Images a step, of all GPUs together."""
    learning_rate: float = 0.1
    """At batch 256, else in proportion; a tenth of it after each third of the run."""
    weight_decay: float = 1e-4
    """Of the L2 penalty, whose gradient goes through the momentum."""
    seed: int = 0
    """Of the student's start, the order of the images and their augmentation."""
    strategy: Literal["none", "mirrored", "multi_worker"] = "none"
    """All GPUs of this machine, or of all machines in TF_CONFIG, which share a disk."""
    mixed_precision: bool = False
    """Compute in float16, keep weights and losses in float32."""
    export: str = ""
    """What to ship the student as: saved_model, tflite, or both with a comma."""

    def __post_init__(self):
        settings.check_numbers(self, ("epochs", "batch_size", "learning_rate"))
        settings.check_numbers(self, ("weight_decay",), "at least 0")
        settings.check_method_weight(self)
        settings.balance_of(self)
        settings.switch_points_of(self)
        settings.exports_of(self)


def main(config):
    """Trains, evaluates and ships a student.

    A run that was ended early goes on from its last checkpoint.

    Args:
        config: A `Config`.

    Returns:
        The content of results.json: top-1 and top-5 accuracy on the test images in
        percent, of the student and of its TFLite file; times in seconds. Nothing on
        machines other than the first.

    Raises:
        ValueError, TypeError, OSError: The run cannot start; the message says why.
        FloatingPointError: The loss became infinite or NaN; no student is left.
    """
    return workdir.results_of(config) or train(config, *prepare(config))


@devices.leaves_settings
def prepare(config):
    """All that can go wrong before training; returns (data, compiled model, student)."""
    workdir.check(config)
    strategy = devices.open_strategy(config.strategy)
    data = open_data(config)
    steps_per_epoch = run.steps_per_epoch(config, data.train, strategy)
    config = with_embedded_teacher(config, data)
    with strategy.scope():
        keras.utils.set_random_seed(config.seed)
        student = load_student(config, data)
        model = build_model(config, data, student)
        model.compile(
            optimizer=build_optimizer(config, steps_per_epoch),
            loss="sparse_categorical_crossentropy",
            metrics=accuracies(),
        )
    return data, model, student


@devices.leaves_settings
def train(config, data, model, student):
    """Fits, evaluates and ships what `prepare` returned; returns the results."""
    writes = run.is_chief(model)
    directory = workdir.create(config) if writes else workdir.path_of(config)
    skipped = run.fit(
        directory,
        model,
        student,
        lambda *args: training_batches(config, data, *args),
        source=data.train,
        epochs=config.epochs,
        steps_per_epoch=len(data.train) // config.batch_size,
        validation_data=evaluation_batches(config, data),
    )
    if not writes:
        return {}
    workdir.save_model(student, directory / "student.keras")
    workdir.write_labels(directory / "labels.txt", data.class_names)
    results = {
        "method": config.method,
        "class_names": data.class_names,
        "training_images": len(data.train),
        "test_images": len(data.test),
        "training_seconds": run.training_seconds(directory),
        **evaluate(config, data, directory / "student.keras"),
        # Behind the evaluation, which may skip some.
        "skipped_images": [*skipped, *data.test.skipped],
        **ship(config, data, student, directory),
    }
    return workdir.write_results(directory, results)


def open_data(config):
    if config.data_dir:
        return classification.open_dataset(config.data_dir)
    logging.warning(
        "No --data_dir: training on drawn street crops, a stand-in and no evidence."
    )
    train = classification.ArraySource(*streets.crops(4000, size=_DRAWN, seed=0))
    test = classification.ArraySource(*streets.crops(1000, size=_DRAWN, seed=1))
    return classification.ClassificationDataset(train, test, streets.CLASSES, _DRAWN)


def image_size(data):
    """Pixels: what the images have, or 224 for photographs of any size."""
    return data.image_size or _PHOTOGRAPH


def training_batches(config, data, epochs, context=None):
    """Random resized crop and flip; of small images a shifted crop and flip."""
    small = data.image_size is not None and data.image_size < _PHOTOGRAPH
    augmentation = (
        classification.augment.pad_crop_flip
        if small
        else classification.augment.random_resized_crop_flip
    )
    return data.train.training_batches(
        config.batch_size, augmentation(image_size(data)), config.seed, epochs, context
    )


def evaluation_batches(config, data, batch_size=None):
    """The 224 crop of the middle; small images as they are."""
    whole = (
        classification.augment.as_is
        if data.image_size
        else classification.augment.resize_center_crop
    )
    return data.test.batches(batch_size or config.batch_size, whole(image_size(data)))


def load_student(config, data):
    size, classes = image_size(data), len(data.class_names)
    if not config.student.endswith(".keras"):
        network = networks.by_name(
            "student",
            config.student,
            networks.from_scratch,
            input_shape=(size, size, 3),
            classes=classes,
            classifier_activation=None,
        )
        # In float16 a softmax is too coarse, and top-5 does not take it.
        softmax = keras.layers.Softmax(dtype="float32", name="probabilities")
        return keras.Model(network.input, softmax(network.output), name=network.name)
    student = networks.from_file("student", config.student, (size, size))
    outputs = networks.outputs_for_noise(student, size, size)
    if getattr(outputs, "shape", None) != (1, classes):
        settings.refuse("student", f"a classifier of {classes} classes", config.student)
    if not networks.are_probabilities(outputs):
        settings.refuse("student", "a classifier that ends in a softmax", config.student)
    return student


def with_embedded_teacher(config, data):
    """`config` with a teacher that knows the drawn crops, if those are the data."""
    if config.data_dir or config.method == "none" or config.teacher != Config.teacher:
        return config
    path = teachers.street_classifier(data.train, len(data.class_names), _DRAWN)
    return dataclasses.replace(config, teacher=str(path))


def build_model(config, data, student):
    """What `fit` trains: `student` inside the method."""
    if config.method == "none":
        return run.Alone(student.input, student.output)
    head = {}
    if config.method == "kd":
        check_teacher_knows(config, data)
        # In float16 a softmax of 1000 classes is too coarse.
        head = {"classes": _OF_IMAGENET, "classifier_activation": None}
    size = (image_size(data),) * 2
    teacher = networks.teacher(config, size, **head)
    points = switch_points(config, teacher, student)
    return run.build_model(config, teacher, student, points)


def switch_points(config, teacher, student):
    """The paper's (46, 32 and 28 weighted layers, its Fig. 6), or others that are given.

    Networks that lack one of the paper's change at all strides that both have. So do the
    other methods, which compare maps there.
    """
    points = settings.switch_points_of(config)
    if config.method != "hybrid" or points is None:
        return None
    both = Network(teacher, "teacher"), Network(student, "student")
    common = set.intersection(*({cut.stride for cut in n.stage_cuts} for n in both))
    before_joint = sorted(common)[:-1]
    if set(points) <= set(before_joint):
        return points
    if config.switch_points != Config.switch_points:
        rule = f'strides out of {before_joint}, or "all"'
        settings.refuse("switch_points", rule, config.switch_points)
    logging.info("Paths change network at all strides that both have: %s", before_joint)
    return None


def check_teacher_knows(config, data):
    """Refuses to distil from a head of random weights."""
    classes = len(data.class_names)
    if config.teacher.endswith(".keras") or classes == _OF_IMAGENET:
        return
    train = f"--method=none --student={config.teacher} --workdir=runs/teacher"
    if config.data_dir:
        train = f"--data_dir={config.data_dir} {train}"
    settings.refuse(
        "teacher",
        f"a .keras file of a network that knows the {classes} classes of the data, with "
        f"--method=kd: those of Keras Applications know the {_OF_IMAGENET} of ImageNet. "
        f"Train it first, by python -m keras_hybrid.recipes.imagenet {train}, and give "
        "--teacher=runs/teacher/student.keras",
        config.teacher,
    )


def build_optimizer(config, steps_per_epoch):
    """SGD as in Heo et al. 2019, whose settings the paper takes; and gradients clipped.

    The plain sum of losses needs it: nothing normalizes what the teacher-first path's
    last adapters make, and without clipping the drawn crops' loss became NaN.
    """
    momentum = 0.9
    peak = config.learning_rate * config.batch_size / 256
    thirds = [round(config.epochs * steps_per_epoch * part / 3) for part in (1, 2)]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        thirds, [peak, peak / 10, peak / 100]
    )
    # Keras's decay goes past the momentum, which would have added it up tenfold.
    decay = config.weight_decay / (1 - momentum)
    return keras.optimizers.SGD(
        schedule, momentum=momentum, weight_decay=decay, global_clipnorm=10.0
    )


def accuracies():
    return [
        keras.metrics.SparseCategoricalAccuracy(name="top1"),
        keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5"),
    ]


def evaluate(config, data, path):
    """Top-1 and top-5 in percent of the student as saved at `path`."""
    student = keras.saving.load_model(path, compile=False)
    student.compile(loss="sparse_categorical_crossentropy", metrics=accuracies())
    with run.quiet_about_length():
        values = student.evaluate(evaluation_batches(config, data), return_dict=True)
    return {name: round(100 * float(values[name]), 3) for name in ("top1", "top5")}


def ship(config, data, student, directory):
    """Exports; returns what results.json says of it."""
    size = image_size(data)
    network = at_size(student, size, size)
    results = run.ship(config, network, directory, labels=data.class_names)
    if "tflite" in settings.exports_of(config):
        results["tflite_top1"] = tflite_top1(config, data, directory / "student.tflite")
    return results


def tflite_top1(config, data, path):
    """Top-1 in percent of a TFLite file over all test images, one at a time."""
    runner = Interpreter(model_path=os.fspath(path)).get_signature_runner()
    progress = keras.utils.Progbar(len(data.test), unit_name="image")
    right = total = 0
    for image, label in evaluation_batches(config, data, batch_size=1):
        right += int(np.argmax(runner(image=image)["output_0"]) == int(label[0]))
        total += 1
        progress.update(total)
    return round(100 * right / total, 3)


if __name__ == "__main__":
    shell.run(Config, prepare, train)
