"""Tables 2 and 3 of the paper: teachers from other domains and tasks teach a segmenter.

The paper's student is DeepLab v2 on VGG16, trained on Cityscapes for 40 000 steps with
batch size 8 and a learning rate of 1e-3 for all layers, with polynomial decay. Its
teacher for Table 3 is DeepLab v2 on ResNet-101, trained on GTA5. The first command trains
that teacher, the second one the student:

    python -m keras_hybrid.recipes.cityscapes --data_dir=/data/gta5 --workdir=runs/gta5 \
        --method=none --student=ResNet101
    python -m keras_hybrid.recipes.cityscapes --data_dir=/data/cityscapes \
        --workdir=runs/table3 --teacher=runs/gta5/student.keras --also_evaluate=/data/gta5

Paper: mIoU 60.7 with that teacher (Table 2); on GTA5, 34.2 with it and 33.5 without
(Table 3). Ours: not yet measured; docs/results.md has a comparison on CamVid. Without
--data_dir, the recipe is a demo on synthetic streets by day, with a teacher that was
trained on streets at dusk; its results mean nothing beyond it:

    python -m keras_hybrid.recipes.cityscapes --workdir=runs/streets --student=MobileNet \
        --output_stride=16 --steps=600 --learning_rate=0.03 --export=tflite
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_hybrid.data import segmentation
from keras_hybrid.data.segmentation import SegmentationDataset
from keras_hybrid.metrics import MeanIoU
from keras_hybrid.models.segmentation.deeplab_v2 import (
    at_size,
    deeplab_v2,
    with_label_map,
)
from keras_hybrid.models.segmentation.dilation import undilated_stages
from keras_hybrid.recipes import (
    devices,
    embedded,
    networks,
    pictures,
    run,
    settings,
    shell,
    teachers,
    workdir,
)

# Evaluation pads images to multiples of this many pixels, which all strides divide.
_MULTIPLE = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings; the defaults are the paper's."""

    data_dir: str = ""
    """Cityscapes, GTA5, CamVid-style folders, or a TFDS folder with cityscapes; synthetic
    data if not given."""
    workdir: str = "runs/cityscapes"
    """Directory for the config, metrics, pictures, student and exports."""
    teacher: str = ""
    """A .keras file, or a Keras Applications network with ImageNet weights."""
    teacher_preprocessing: Literal["inside", "caffe", "tf", "torch", "bgr"] = "inside"
    """Preprocessing that a teacher from a file needs; inside if it takes raw RGB."""
    student: str = "VGG16"
    """Keras Applications network for DeepLab v2 to build on, or .keras file to start
    from."""
    student_weights: str = "imagenet"
    """Initial weights of that network: imagenet, random or a file; always random on
    synthetic data."""
    output_stride: int = 8
    """Image pixels per pixel of that network's last feature map."""
    method: settings.Method = "hybrid"
    """Hybrid forward, none (the student alone), or one of keras_hybrid.baselines."""
    method_weight: float | None = None
    """Weight of a baseline's loss; that of the baseline's paper, or 1, if not given."""
    balance: str = "dynamic"
    """"dynamic" or a fixed alpha."""
    steps: int = 40_000
    """Number of training steps."""
    batch_size: int = 8
    """Images per training step, over all GPUs together."""
    crop_height: int = 512
    """Height in pixels of the training crops and of the exported student's images."""
    crop_width: int = 1024
    """Width in pixels of both; synthetic data has sizes of its own."""
    learning_rate: float = 1e-3
    """Initial learning rate, which decays to 0 as (1 - step / steps) ** 0.9."""
    weight_decay: float = 5e-4
    """Factor of the L2 penalty, whose gradient enters the momentum."""
    also_evaluate: str = ""
    """Another data set of the same classes to evaluate on, such as the teacher's; with
    synthetic data also "dusk"."""
    seed: int = 0
    """Random seed for initial weights, data order and augmentation."""
    strategy: Literal["none", "mirrored", "multi_worker"] = "none"
    """mirrored for all GPUs of this machine; multi_worker for those of all machines in
    TF_CONFIG, which must share a disk."""
    mixed_precision: bool = False
    """Whether to compute in float16, with weights and losses in float32."""
    export: str = ""
    """Formats to export the student to: saved_model, tflite, or both with a comma."""
    export_label_map: bool = False
    """Whether to export the class of each pixel as output instead of one score per
    class."""

    def __post_init__(self) -> None:
        settings.check_numbers(self, ("steps", "batch_size", "learning_rate"))
        settings.check_numbers(self, ("weight_decay",), "at least 0")
        for name in ("crop_height", "crop_width"):
            value = getattr(self, name)
            if value <= 0 or value % _MULTIPLE:
                settings.refuse(name, f"a multiple of {_MULTIPLE}", value)
        settings.check_method_weight(self)
        settings.balance_of(self)
        settings.exports_of(self)


def main(config: Config) -> dict[str, Any]:
    """Trains, evaluates and exports a student, with pictures of its predictions.

    A run that was interrupted resumes from its last checkpoint.

    Args:
        config: Settings of the run.

    Returns:
        The content of results.json: mIoU and IoU of each class in percent on the test
        images at full size, times in seconds. Empty on machines other than the first.

    Raises:
        ValueError, TypeError, OSError: The run cannot start; the message says why.
        FloatingPointError: The loss became infinite or NaN; no student is saved.
    """
    return workdir.results_of(config) or train(config, *prepare(config))


@devices.leaves_settings
def prepare(
    config: Config,
) -> tuple[SegmentationDataset, SegmentationDataset | None, keras.Model, keras.Model]:
    """Does all that can fail before training.

    Returns:
        The data set, that of --also_evaluate or None, the compiled model and the student.
    """
    workdir.check(config)
    strategy = devices.open_strategy(config.strategy)
    data = open_data(config)
    other = open_other(config, data)
    run.steps_per_epoch(config, data.train, strategy)
    config = with_embedded_teacher(config)
    with strategy.scope():
        keras.utils.set_random_seed(config.seed)
        student = load_student(config, data)
        model = build_model(config, student)
        model.compile(
            optimizer=build_optimizer(config),
            loss=keras.losses.SparseCategoricalCrossentropy(
                from_logits=True, ignore_class=segmentation.IGNORED
            ),
            metrics=[MeanIoU(len(data.class_names))],
        )
    return data, other, model, student


@devices.leaves_settings
def train(
    config: Config,
    data: SegmentationDataset,
    other: SegmentationDataset | None,
    model: keras.Model,
    student: keras.Model,
) -> dict[str, Any]:
    """Fits, evaluates and exports what `prepare` returned; returns the results."""
    writes = run.is_chief(model)
    directory = workdir.create(config) if writes else workdir.path_of(config)
    steps_per_epoch = len(data.train) // config.batch_size
    skipped = run.fit(
        directory,
        model,
        student,
        lambda *args: training_batches(config, data, *args),
        source=data.train,
        # The learning rate is 0 from `steps` to the end of the last epoch.
        epochs=math.ceil(config.steps / steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
    )
    if not writes:
        return {}
    workdir.save_model(student, directory / "student.keras")
    workdir.write_labels(directory / "labels.txt", data.class_names)
    pictures.draw_label_maps(
        directory / "predictions.png",
        label_maps_of(student),
        evaluation_batches(data),
        len(data.test),
        data.class_names,
    )
    results = {
        "method": config.method,
        "class_names": data.class_names,
        "training_images": len(data.train),
        "test_images": len(data.test),
        "training_seconds": run.training_seconds(directory),
        **evaluate(student, data),
        **({"also_evaluate": evaluate(student, other)} if other else {}),
        "skipped_images": [
            *skipped,
            *data.test.skipped,
            *(other.test.skipped if other else ()),
        ],
        **ship(config, data, student, directory),
    }
    return workdir.write_results(directory, results)


def open_data(config: Config) -> SegmentationDataset:
    """Opens the data set in --data_dir, or renders the synthetic one."""
    if config.data_dir:
        return segmentation.open_dataset(config.data_dir, for_training=True)
    logging.warning(
        "No --data_dir: training on synthetic streets. The results mean nothing beyond "
        "this demo."
    )
    return embedded.streets_with_labels("day")


def open_other(config: Config, data: SegmentationDataset) -> SegmentationDataset | None:
    """Opens the data set of --also_evaluate; returns None if there is none."""
    if not config.also_evaluate:
        return None
    if config.also_evaluate == "dusk" and not config.data_dir:
        return embedded.streets_with_labels("dusk")
    other = segmentation.open_dataset(config.also_evaluate)
    if other.class_names != data.class_names:
        rule = f"a data set of the classes {', '.join(data.class_names)}"
        settings.refuse("also_evaluate", rule, config.also_evaluate)
    return other


def crop_size(config: Config) -> tuple[int, int]:
    """Returns the (height, width) of training crops in pixels."""
    if config.data_dir:
        return config.crop_height, config.crop_width
    return embedded.STREET_CROP


def training_batches(
    config: Config,
    data: SegmentationDataset,
    epochs: range,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Returns batches of random crops at random scales.

    They are mirrored in half of the cases.
    """
    transform = segmentation.augment.random_scale_crop_flip(crop_size(config))
    return data.train.training_batches(
        config.batch_size, transform, config.seed, epochs, context
    )


def evaluation_batches(data: SegmentationDataset) -> tf.data.Dataset:
    """Returns batches of one test image each, at full size."""
    return data.test.batches(1, segmentation.augment.padded_to_multiple(_MULTIPLE))


def load_student(config: Config, data: SegmentationDataset) -> keras.Model:
    """Returns the student, for images whose sides are multiples of the output stride."""
    classes = len(data.class_names)
    if not config.student.endswith(".keras"):
        backbone = networks.backbone(config, "student")
        return deeplab_v2(backbone, classes, output_stride=config.output_stride)
    student = networks.from_file("student", config.student, networks.ANY_SIZE)
    outputs = networks.outputs_for_noise(student, _MULTIPLE, _MULTIPLE)
    if getattr(outputs, "shape", None) != (1, _MULTIPLE, _MULTIPLE, classes):
        settings.refuse("student", f"a segmenter of {classes} classes", config.student)
    if networks.are_probabilities(outputs):
        rule = "a segmenter that ends in logits, not in a softmax"
        settings.refuse("student", rule, config.student)
    return student


def with_embedded_teacher(config: Config) -> Config:
    """Adds a teacher trained on streets at dusk, if the data is synthetic."""
    if config.method == "none" or config.teacher:
        return config
    if config.data_dir:
        settings.refuse(
            "teacher", "given with --data_dir, unless --method=none", config.teacher
        )
    return dataclasses.replace(config, teacher=str(teachers.street_segmenter()))


def build_model(config: Config, student: keras.Model) -> keras.Model:
    """Returns the model to fit: `student` wrapped by the method."""
    if config.method == "none":
        return run.Alone(student.input, student.output)
    teacher = networks.teacher(config, crop_size(config))
    points = switch_points(teacher, student)
    return run.build_model(config, teacher, student, points)


def switch_points(
    teacher: keras.Model, student: keras.Model
) -> list[tuple[str, str]] | None:
    """Returns the pairs of layers that would have equal strides without dilation."""
    ends = {stage.stride: stage.layer_name for stage in undilated_stages(student)}
    pairs = [
        (stage.layer_name, ends[stage.stride])
        for stage in undilated_stages(teacher)
        if stage.stride in ends
    ]
    # With fewer, the error that `HybridTransfer` raises lists the stages of both.
    return pairs if len(pairs) > 1 else None


def build_optimizer(config: Config) -> keras.optimizers.SGD:
    """Returns SGD with polynomial decay, as in Tsai et al. (2018), the paper's setup.

    All weights share one learning rate, as in Tsai's code (AdaptSegNet, `deeplab_vgg.py`)
    for VGG16, the paper's student, which has no batch normalization. For ResNet-101, the
    backbone of the paper's teacher, that code trains the last layer at ten times the rate
    and freezes the scale and offset of batch normalization (`deeplab_multi.py`). Here it
    is trained like every other network: the paper gives no hyperparameters for the
    teacher, and networks from scratch need a trained scale and offset.
    """
    momentum = 0.9
    schedule = keras.optimizers.schedules.PolynomialDecay(
        config.learning_rate, config.steps, end_learning_rate=0.0, power=0.9
    )
    # Keras's weight decay bypasses the momentum, which would have amplified it tenfold.
    decay = config.weight_decay / (1 - momentum)
    return keras.optimizers.SGD(
        schedule, momentum=momentum, weight_decay=decay, global_clipnorm=10.0
    )


def label_maps_of(student: keras.Model) -> Callable[[tf.Tensor], np.ndarray]:
    """Returns a function from images (B, H, W, 3) to label maps (B, H, W).

    It runs a graph for each size, which needs a quarter of the memory of eager layers:
    1.7 instead of 7.5 GiB for MobileNet and 2048x1024 pixels.
    """
    network = functools.cache(lambda *size: with_label_map(at_size(student, *size)))
    return lambda images: network(*images.shape[1:3]).predict_on_batch(images)


def evaluate(student: keras.Model, data: SegmentationDataset) -> dict[str, Any]:
    """Returns mIoU and IoU of each class in percent.

    The IoU of a class that neither occurs nor is predicted is None.
    """
    metric = MeanIoU(len(data.class_names))
    progress = keras.utils.Progbar(len(data.test), unit_name="image")
    predict = label_maps_of(student)
    for count, (images, labels) in enumerate(evaluation_batches(data), start=1):
        metric.update_state(labels, predict(images))
        progress.update(count)
    iou = dict(zip(data.class_names, 100 * metric.result_per_class()))
    return {
        "miou": round(100 * float(metric.result()), 3),
        "iou": {name: None if np.isnan(v) else round(v, 3) for name, v in iou.items()},
    }


def ship(
    config: Config,
    data: SegmentationDataset,
    student: keras.Model,
    directory: pathlib.Path,
) -> dict[str, Any]:
    """Exports the student for images of the crops' size, or for whole synthetic streets.

    Returns:
        The entries for results.json.
    """
    size = crop_size(config) if config.data_dir else embedded.STREET_SIZE
    network = at_size(student, *size)
    if config.export_label_map:
        network = with_label_map(network)
    return run.ship(config, network, directory, labels=data.class_names)


if __name__ == "__main__":
    shell.run(Config, prepare, train)
