"""Table 1 of the paper: ResNet-50 teaches MobileNet V1 to classify ImageNet.

The paper's run: batch size 256, learning rate 0.1 divided by 10 every 30 epochs, the
plain sum of losses, and paths of 46, 32 and 28 layers that change network at strides 2, 8
and 16:

    python -m keras_hybrid.recipes.imagenet --data_dir=/data/tfds --workdir=runs/table1

On a GPU, add --mixed_precision; on several GPUs, also --strategy=mirrored.

Paper: top-1 71.39 with the teacher, 68.87 without. Ours: not yet measured;
docs/results.md has a comparison on CIFAR-10. Without --data_dir, the recipe is a demo on
synthetic street crops, whose results mean nothing beyond it:

    python -m keras_hybrid.recipes.imagenet --workdir=runs/first --epochs=6 \
        --batch_size=64 --balance=dynamic --export=tflite
"""

import dataclasses
import os
import pathlib
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from ai_edge_litert.interpreter import Interpreter

from keras_hybrid.data import classification, streets
from keras_hybrid.data.classification import ClassificationDataset
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

# Height and width in pixels of crops from photographs, and of the synthetic crops.
_PHOTOGRAPH_SIZE, _STREET_SIZE = 224, 32
# Number of classes that the networks of Keras Applications predict.
_IMAGENET_CLASSES = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings; the defaults are the paper's."""

    data_dir: str = ""
    """TFDS folder with imagenet2012, folder of class folders, or .npz file; synthetic
    data if not given."""
    workdir: str = "runs/imagenet"
    """Directory for the config, metrics, student and exports."""
    teacher: str = "ResNet50"
    """Keras Applications network with ImageNet weights, or a .keras file."""
    teacher_preprocessing: Literal["inside", "caffe", "tf", "torch", "bgr"] = "inside"
    """Preprocessing that a teacher from a file needs; inside if it takes raw RGB."""
    student: str = "MobileNet"
    """Keras Applications network to train from scratch, or .keras file to start from."""
    method: settings.Method = "hybrid"
    """Hybrid forward, none (the student alone), or one of keras_hybrid.baselines."""
    method_weight: float | None = None
    """Weight of a baseline's loss; that of the baseline's paper, or 1, if not given."""
    balance: str = "1"
    """"dynamic" or a fixed alpha; 1 is the plain sum of losses, as in Table 1."""
    switch_points: str = "2,8,16"
    """Strides at which hybrid paths change network, or "all" that both networks have."""
    epochs: int = 90
    """Passes over the training images."""
    batch_size: int = 256
    """Images per training step, over all GPUs together."""
    learning_rate: float = 0.1
    """Learning rate for batch size 256, scaled in proportion to the batch size; divided
    by 10 after each third of the run."""
    weight_decay: float = 1e-4
    """Factor of the L2 penalty, whose gradient enters the momentum."""
    seed: int = 0
    """Random seed for initial weights, data order and augmentation."""
    strategy: Literal["none", "mirrored", "multi_worker"] = "none"
    """mirrored for all GPUs of this machine; multi_worker for those of all machines in
    TF_CONFIG, which must share a disk."""
    mixed_precision: bool = False
    """Whether to compute in float16, with weights and losses in float32."""
    export: str = ""
    """Formats to export the student to: saved_model, tflite, or both with a comma."""

    def __post_init__(self) -> None:
        settings.check_numbers(self, ("epochs", "batch_size", "learning_rate"))
        settings.check_numbers(self, ("weight_decay",), "at least 0")
        settings.check_method_weight(self)
        settings.balance_of(self)
        settings.switch_points_of(self)
        settings.exports_of(self)


def main(config: Config) -> dict[str, Any]:
    """Trains, evaluates and exports a student.

    A run that was interrupted resumes from its last checkpoint.

    Args:
        config: Settings of the run.

    Returns:
        The content of results.json: top-1 and top-5 accuracy of the student on the test
        images in percent, top-1 accuracy of its TFLite file, times in seconds. Empty on
        machines other than the first.

    Raises:
        ValueError, TypeError, OSError: The run cannot start; the message says why.
        FloatingPointError: The loss became infinite or NaN; no student is saved.
    """
    return workdir.results_of(config) or train(config, *prepare(config))


@devices.leaves_settings
def prepare(config: Config) -> tuple[ClassificationDataset, keras.Model, keras.Model]:
    """Does all that can fail before training; returns (data, compiled model, student)."""
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
def train(
    config: Config, data: ClassificationDataset, model: keras.Model, student: keras.Model
) -> dict[str, Any]:
    """Fits, evaluates and exports what `prepare` returned; returns the results."""
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
        # After the evaluation, which may skip images.
        "skipped_images": [*skipped, *data.test.skipped],
        **ship(config, data, student, directory),
    }
    return workdir.write_results(directory, results)


def open_data(config: Config) -> ClassificationDataset:
    """Opens the data set in --data_dir, or renders the synthetic crops."""
    if config.data_dir:
        return classification.open_dataset(config.data_dir)
    logging.warning(
        "No --data_dir: training on synthetic street crops. The results mean nothing "
        "beyond this demo."
    )
    train = classification.ArraySource(*streets.crops(4000, size=_STREET_SIZE, seed=0))
    test = classification.ArraySource(*streets.crops(1000, size=_STREET_SIZE, seed=1))
    return ClassificationDataset(train, test, streets.CLASSES, _STREET_SIZE)


def image_size(data: ClassificationDataset) -> int:
    """Returns the side of the images in pixels, 224 for photographs of any size."""
    return data.image_size or _PHOTOGRAPH_SIZE


def training_batches(
    config: Config,
    data: ClassificationDataset,
    epochs: range,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Returns batches of random resized crops, or of shifted crops of small images.

    They are mirrored in half of the cases.
    """
    small = data.image_size is not None and data.image_size < _PHOTOGRAPH_SIZE
    augmentation = (
        classification.augment.pad_crop_flip
        if small
        else classification.augment.random_resized_crop_flip
    )
    return data.train.training_batches(
        config.batch_size, augmentation(image_size(data)), config.seed, epochs, context
    )


def evaluation_batches(
    config: Config, data: ClassificationDataset, batch_size: int | None = None
) -> tf.data.Dataset:
    """Returns batches of centre crops, or of whole images if all share one size."""
    whole = (
        classification.augment.as_is
        if data.image_size
        else classification.augment.resize_center_crop
    )
    return data.test.batches(batch_size or config.batch_size, whole(image_size(data)))


def load_student(config: Config, data: ClassificationDataset) -> keras.Model:
    """Returns the student of --student, a softmax classifier of the data's classes."""
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
        # float16 is too coarse for a softmax, and the top-5 metric does not take it.
        softmax = keras.layers.Softmax(dtype="float32", name="probabilities")
        return keras.Model(network.input, softmax(network.output), name=network.name)
    student = networks.from_file("student", config.student, (size, size))
    outputs = networks.outputs_for_noise(student, size, size)
    if getattr(outputs, "shape", None) != (1, classes):
        settings.refuse("student", f"a classifier of {classes} classes", config.student)
    if not networks.are_probabilities(outputs):
        settings.refuse("student", "a classifier that ends in a softmax", config.student)
    return student


def with_embedded_teacher(config: Config, data: ClassificationDataset) -> Config:
    """Adds a teacher trained on the synthetic crops, if those are the data."""
    if config.data_dir or config.method == "none" or config.teacher != Config.teacher:
        return config
    path = teachers.street_classifier(data.train, len(data.class_names), _STREET_SIZE)
    return dataclasses.replace(config, teacher=str(path))


def build_model(
    config: Config, data: ClassificationDataset, student: keras.Model
) -> keras.Model:
    """Returns the model to fit: `student` wrapped by the method."""
    if config.method == "none":
        return run.Alone(student.input, student.output)
    head = {}
    if config.method == "kd":
        check_teacher_knows(config, data)
        # float16 is too coarse for a softmax over 1000 classes.
        head = {"classes": _IMAGENET_CLASSES, "classifier_activation": None}
    size = (image_size(data),) * 2
    teacher = networks.teacher(config, size, **head)
    points = switch_points(config, teacher, student)
    return run.build_model(config, teacher, student, points)


def switch_points(
    config: Config, teacher: keras.Model, student: keras.Model
) -> tuple[int, ...] | None:
    """Returns the strides of --switch_points, or None for all that both networks have.

    The defaults are the paper's, for paths of 46, 32 and 28 weighted layers (Fig. 6).
    Networks that lack one of them get None. So do the baselines, which compare feature
    maps at every common stride.
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
    logging.info("Paths change network at every stride that both have: %s", before_joint)
    return None


def check_teacher_knows(config: Config, data: ClassificationDataset) -> None:
    """Refuses to distil from a classifier with random weights."""
    classes = len(data.class_names)
    if config.teacher.endswith(".keras") or classes == _IMAGENET_CLASSES:
        return
    train = f"--method=none --student={config.teacher} --workdir=runs/teacher"
    if config.data_dir:
        train = f"--data_dir={config.data_dir} {train}"
    settings.refuse(
        "teacher",
        f"a .keras file of a network that was trained on the {classes} classes of the "
        "data, with --method=kd: the networks of Keras Applications were trained on the "
        f"{_IMAGENET_CLASSES} classes of ImageNet. Train one first, with python -m "
        f"keras_hybrid.recipes.imagenet {train}, and pass "
        "--teacher=runs/teacher/student.keras",
        config.teacher,
    )


def build_optimizer(config: Config, steps_per_epoch: int) -> keras.optimizers.SGD:
    """Returns SGD with the settings of Heo et al. (2019), as in the paper, and clipping.

    The plain sum of losses needs gradient clipping: nothing normalizes the output of the
    last adapters on the teacher-first path, and without clipping the loss on the
    synthetic crops became NaN.
    """
    momentum = 0.9
    peak = config.learning_rate * config.batch_size / 256
    thirds = [round(config.epochs * steps_per_epoch * part / 3) for part in (1, 2)]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        thirds, [peak, peak / 10, peak / 100]
    )
    # Keras's weight decay bypasses the momentum, which would have amplified it tenfold.
    decay = config.weight_decay / (1 - momentum)
    return keras.optimizers.SGD(
        schedule, momentum=momentum, weight_decay=decay, global_clipnorm=10.0
    )


def accuracies() -> list[keras.metrics.Metric]:
    """Returns the metrics top-1 and top-5 accuracy."""
    return [
        keras.metrics.SparseCategoricalAccuracy(name="top1"),
        keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5"),
    ]


def evaluate(
    config: Config, data: ClassificationDataset, path: pathlib.Path
) -> dict[str, float]:
    """Returns top-1 and top-5 accuracy in percent of the student saved at `path`."""
    student = keras.saving.load_model(path, compile=False)
    student.compile(loss="sparse_categorical_crossentropy", metrics=accuracies())
    with run.quiet_about_length():
        values = student.evaluate(evaluation_batches(config, data), return_dict=True)
    return {name: round(100 * float(values[name]), 3) for name in ("top1", "top5")}


def ship(
    config: Config,
    data: ClassificationDataset,
    student: keras.Model,
    directory: pathlib.Path,
) -> dict[str, Any]:
    """Exports the student; returns the entries for results.json."""
    size = image_size(data)
    network = at_size(student, size, size)
    results = run.ship(config, network, directory, labels=data.class_names)
    if "tflite" in settings.exports_of(config):
        results["tflite_top1"] = tflite_top1(config, data, directory / "student.tflite")
    return results


def tflite_top1(config: Config, data: ClassificationDataset, path: pathlib.Path) -> float:
    """Returns top-1 accuracy in percent of a TFLite file on all test images."""
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
