"""Tables 2 and 3 of the paper: teachers of other domains and tasks teach a segmenter.

The paper's student is DeepLab v2 on VGG16, trained on Cityscapes with batch 8 and 40 000
steps from 1e-3, polynomial, the same for all layers. Its teacher for Table 3, a DeepLab
v2 on ResNet-101 that knows GTA5, comes from the same recipe, and then teaches:

    python -m keras_hybrid.recipes.cityscapes --data_dir=/data/gta5 --workdir=runs/gta5 \
        --method=none --student=ResNet101
    python -m keras_hybrid.recipes.cityscapes --data_dir=/data/cityscapes \
        --workdir=runs/table3 --teacher=runs/gta5/student.keras --also_evaluate=/data/gta5

Paper: mIoU 60.7 with that teacher (Table 2); on GTA5 34.2, and 33.5 without (Table 3).
Ours: not yet measured. The same on CamVid in docs/results.md. Without --data_dir it runs
on drawn streets by day, taught by a network that knows streets at dusk; a stand-in for
trying it out, and evidence of nothing:

    python -m keras_hybrid.recipes.cityscapes --workdir=runs/streets --student=MobileNet \
        --output_stride=16 --steps=600 --learning_rate=0.03 --export=tflite
"""

import dataclasses
import functools
import math
from typing import Literal

import keras
import numpy as np
from absl import logging

from keras_hybrid.data import segmentation
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

# Images are padded to multiples of it for evaluation: all strides divide it.
_MULTIPLE = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings; the defaults are the paper's."""

    data_dir: str = ""
    """Cityscapes, GTA5, folders as CamVid's, or TFDS with cityscapes; else drawn."""
    workdir: str = "runs/cityscapes"
    """Where config, metrics, pictures, student and exports go."""
    teacher: str = ""
    """A .keras file, or a Keras Applications network with ImageNet weights."""
    teacher_preprocessing: Literal["inside", "caffe", "tf", "torch", "bgr"] = "inside"
    """What a teacher from a file needs before it."""
    student: str = "VGG16"
    """Keras Applications network to put DeepLab v2 on, or .keras file to go on with."""
    student_weights: str = "imagenet"
    """Of that network: imagenet, random or a file; of drawn streets always random."""
    output_stride: int = 8
    """Pixels of the image per pixel of the network's last map."""
    method: settings.Method = "hybrid"
    """Hybrid forward, the student alone, or one of keras_hybrid.baselines."""
    method_weight: float | None = None
    """Of the loss of such a baseline; its paper's, or 1, if not given."""
    balance: str = "dynamic"
    """"dynamic" or a fixed alpha."""
    steps: int = 40_000
    """Batches to train on."""
    batch_size: int = 8
    """Images a step, of all GPUs together."""
    crop_height: int = 512
    """Pixels of a training crop, and of the exported student's image."""
    crop_width: int = 1024
    """Likewise; drawn streets have their own size."""
    learning_rate: float = 1e-3
    """At the beginning; it falls to 0 as (1 - step / steps) ** 0.9."""
    weight_decay: float = 5e-4
    """Of the L2 penalty, whose gradient goes through the momentum."""
    also_evaluate: str = ""
    """Another data set of the same classes, such as the teacher's; or "dusk"."""
    seed: int = 0
    """Of the student's start, the order of the images and their augmentation."""
    strategy: Literal["none", "mirrored", "multi_worker"] = "none"
    """All GPUs of this machine, or of all machines in TF_CONFIG, which share a disk."""
    mixed_precision: bool = False
    """Compute in float16, keep weights and losses in float32."""
    export: str = ""
    """What to ship the student as: saved_model, tflite, or both with a comma."""
    export_label_map: bool = False
    """Ship it with the class of each pixel for output, not with a score of each class."""

    def __post_init__(self):
        settings.check_numbers(self, ("steps", "batch_size", "learning_rate"))
        settings.check_numbers(self, ("weight_decay",), "at least 0")
        for name in ("crop_height", "crop_width"):
            value = getattr(self, name)
            if value <= 0 or value % _MULTIPLE:
                settings.refuse(name, f"a multiple of {_MULTIPLE}", value)
        settings.check_method_weight(self)
        settings.balance_of(self)
        settings.exports_of(self)


def main(config):
    """Trains, evaluates, draws and ships a student.

    A run that was ended early goes on from its last checkpoint.

    Args:
        config: A `Config`.

    Returns:
        The content of results.json: mIoU and IoU of each class in percent, on the test
        images in their full size; times in seconds. Nothing on machines other than the
        first.

    Raises:
        ValueError, TypeError, OSError: The run cannot start; the message says why.
        FloatingPointError: The loss became infinite or NaN; no student is left.
    """
    return workdir.results_of(config) or train(config, *prepare(config))


@devices.leaves_settings
def prepare(config):
    """All that can go wrong before training; returns (data, other, model, student)."""
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
def train(config, data, other, model, student):
    """Fits, evaluates, draws and ships what `prepare` returned; returns the results."""
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


def open_data(config):
    if config.data_dir:
        return segmentation.open_dataset(config.data_dir, for_training=True)
    logging.warning(
        "No --data_dir: training on drawn streets, a stand-in and no evidence."
    )
    return embedded.streets_with_labels("day")


def open_other(config, data):
    """The data set of --also_evaluate, or None."""
    if not config.also_evaluate:
        return None
    if config.also_evaluate == "dusk" and not config.data_dir:
        return embedded.streets_with_labels("dusk")
    other = segmentation.open_dataset(config.also_evaluate)
    if other.class_names != data.class_names:
        rule = f"a data set of the classes {', '.join(data.class_names)}"
        settings.refuse("also_evaluate", rule, config.also_evaluate)
    return other


def crop_size(config):
    """(height, width) of training crops in pixels."""
    if config.data_dir:
        return config.crop_height, config.crop_width
    return embedded.STREET_CROP


def training_batches(config, data, epochs, context=None):
    """Random parts of the images at random scales, and their mirror images."""
    transform = segmentation.augment.random_scale_crop_flip(crop_size(config))
    return data.train.training_batches(
        config.batch_size, transform, config.seed, epochs, context
    )


def evaluation_batches(data):
    """One test image at a time, in its full size."""
    return data.test.batches(1, segmentation.augment.padded_to_multiple(_MULTIPLE))


def load_student(config, data):
    """Takes images of any size, in multiples of the output stride."""
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


def with_embedded_teacher(config):
    """`config` with a teacher that knows streets at dusk, if the data are drawn ones."""
    if config.method == "none" or config.teacher:
        return config
    if config.data_dir:
        settings.refuse(
            "teacher", "given with --data_dir, unless --method=none", config.teacher
        )
    return dataclasses.replace(config, teacher=str(teachers.street_segmenter()))


def build_model(config, student):
    """What `fit` trains: `student` inside the method."""
    if config.method == "none":
        return run.Alone(student.input, student.output)
    teacher = networks.teacher(config, crop_size(config))
    points = switch_points(teacher, student)
    return run.build_model(config, teacher, student, points)


def switch_points(teacher, student):
    """Pairs of layers where both would be of one stride if they were not dilated."""
    ends = {stage.stride: stage.layer_name for stage in undilated_stages(student)}
    pairs = [
        (stage.layer_name, ends[stage.stride])
        for stage in undilated_stages(teacher)
        if stage.stride in ends
    ]
    # With fewer the constructor shows the stages of both.
    return pairs if len(pairs) > 1 else None


def build_optimizer(config):
    """SGD and polynomial decay, as Tsai et al. 2018, whose set-up the paper follows.

    All weights have one rate, as in Tsai's code (AdaptSegNet, `deeplab_vgg.py`) for
    VGG16, the paper's student, which has no batch normalization. For ResNet-101 that code
    trains the last layer at ten times the rate, and scale and offset of batch
    normalization not at all (`deeplab_multi.py`). Here such a network, the paper's
    teacher, trains as every other: the paper gives no figures for its training, and
    networks from scratch need scale and offset trained.
    """
    momentum = 0.9
    schedule = keras.optimizers.schedules.PolynomialDecay(
        config.learning_rate, config.steps, end_learning_rate=0.0, power=0.9
    )
    # Keras's decay goes past the momentum, which would have added it up tenfold.
    decay = config.weight_decay / (1 - momentum)
    return keras.optimizers.SGD(
        schedule, momentum=momentum, weight_decay=decay, global_clipnorm=10.0
    )


def label_maps_of(student):
    """A function from images (B, H, W, 3) to label maps (B, H, W).

    It has a graph for each size, and so needs a quarter of what calling the student
    needs: 1.7 GiB for MobileNet and 2048x1024 pixels, of which eager layers keep 7.5.
    """
    network = functools.cache(lambda *size: with_label_map(at_size(student, *size)))
    return lambda images: network(*images.shape[1:3]).predict_on_batch(images)


def evaluate(student, data):
    """mIoU and IoU of each class in percent; None for classes that do not occur."""
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


def ship(config, data, student, directory):
    """Exports for images of the training crops' size, and for whole drawn streets."""
    size = crop_size(config) if config.data_dir else embedded.STREET_SIZE
    network = at_size(student, *size)
    if config.export_label_map:
        network = with_label_map(network)
    return run.ship(config, network, directory, labels=data.class_names)


if __name__ == "__main__":
    shell.run(Config, prepare, train)
