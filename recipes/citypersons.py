"""Table 4 of the paper: a pose network teaches a pedestrian detector.

The paper's student is a Faster R-CNN on MobileNet, or on ResNet-50 (Fig. 8), trained on
CityPersons; its teacher is the ResNet-50 of OpenPifPaf, which was trained on COCO's key
points. Of the training it says only that it is the same with the teacher and without;
the schedule below is ours. Fig. 9, a fixed alpha in place of the dynamic one, is a list:

    python -m keras_hybrid.recipes.citypersons --data_dir=/data/cityscapes \
        --workdir=runs/table4 --teacher=openpifpaf_resnet50.npz
    python -m keras_hybrid.recipes.citypersons --data_dir=/data/cityscapes \
        --workdir=runs/fig9 --teacher=openpifpaf_resnet50.npz \
        --balance=0.1,0.3,1,3,dynamic

Paper: MR^-2 of 16.19 on the reasonable subset, 21.12 small, 64.11 heavily occluded, 46.85
all; 17.20, 21.87, 61.76 and 47.09 without the teacher. Ours: not yet measured. The same
on CamVid in docs/results.md. Without --data_dir it runs on drawn streets by day, taught
by a network that knows people's joints at dusk; a stand-in for trying it out, and
evidence of nothing. It takes 4 to 6 minutes on two cores, its teacher included:

    python -m keras_hybrid.recipes.citypersons --export=tflite
"""

import dataclasses
import functools
import math
import pathlib
from typing import Literal

import keras
import numpy as np
from absl import logging

from keras_hybrid.data import detection
from keras_hybrid.hybrid import graph
from keras_hybrid.metrics import Subset, log_average_miss_rate, miss_rate_curve
from keras_hybrid.models.detection.anchors import CELLS
from keras_hybrid.models.detection.faster_rcnn import FasterRCNN, with_detections
from keras_hybrid.models.torch_resnet50 import load_resnet50
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
_FEATURE_STRIDES = 8, 16, 32
_ANCHORS = 11
_SUBSETS = "reasonable", "reasonable_small", "heavy", "all"
CLASS_NAMES = "background", "person"
"""By the numbers in a detection; the first is that of no detection."""
_STATE_DICTS = ".npz", ".safetensors"
_DRAWN_CROP = 96, 192  # (height, width) of the parts of drawn streets to train on
# Of flags that are not given: for photographs, and for drawn streets, in minutes.
_DEFAULTS = {
    "steps": (12_000, 600),
    "batch_size": (8, 2),
    "learning_rate": (2e-4, 2e-3),
    "channels": (256, 32),
    "units": (1024, 128),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings; the schedule is ours, as the paper gives none for this experiment."""

    data_dir: str = ""
    """Cityscapes with CityPersons, or folders with JSON files as COCO's; else drawn."""
    workdir: str = "runs/citypersons"
    """Where config, metrics, pictures, student and exports go."""
    teacher: str = ""
    """A .keras file; .npz or .safetensors of a PyTorch ResNet-50; or a name with ImageNet
    weights."""
    teacher_preprocessing: Literal["inside", "caffe", "tf", "torch", "bgr"] = "inside"
    """What a teacher from a .keras file needs before it."""
    teacher_epsilon: float = 0.0
    """Of its BatchNorms, for a PyTorch file that does not say; 0: as the file says."""
    student_backbone: str = "MobileNet"
    """Keras Applications network, or .keras file of one, to put Faster R-CNN on."""
    student_weights: str = "imagenet"
    """Of that network: imagenet, random or a file; of drawn streets always random."""
    method: settings.Method = "hybrid"
    """Hybrid forward, the student alone, or one of keras_hybrid.baselines."""
    method_weight: float | None = None
    """Of the loss of such a baseline; its paper's, or 1, if not given."""
    balance: str = "dynamic"
    """"dynamic" or a fixed alpha; several with commas are run one after the other."""
    steps: int | None = None
    """Batches to train on; 12 000 if not given, 600 of drawn streets."""
    batch_size: int | None = None
    """Images a step, of all GPUs together; 8 if not given, 2 of drawn streets."""
    crop_height: int = 640
    """Pixels of a training crop, and of the exported student's image."""
    crop_width: int = 1280
    """Likewise; drawn streets have their own size."""
    upscale: float = 1.3
    """Factor of all images, in training and test; drawn streets have their own."""
    min_height: float = 50.0
    """Pixels of the lowest people to learn from, before upscaling."""
    category: str | None = None
    """Name or id of the category to find in JSON files as COCO's; person or pedestrian if
    not given."""
    group_aspect: float = 0.0
    """Boxes of at least this width per height are ignored, as groups; 0: none."""
    learning_rate: float | None = None
    """In the beginning; it falls to 0 as (1 - step / steps) ** 0.9. 2e-4 if not given,
    2e-3 with drawn streets."""
    channels: int | None = None
    """Width of the student's feature pyramid; 256 if not given, 32 for drawn streets."""
    units: int | None = None
    """Width of the two dense layers for each of its proposals; 1024 if not given, 128 for
    drawn streets."""
    seed: int = 0
    """Of the student's start, the order of the images and their augmentation."""
    strategy: Literal["none", "mirrored", "multi_worker"] = "none"
    """All GPUs of this machine, or of all machines in TF_CONFIG, which share a disk."""
    mixed_precision: bool = False
    """Compute in float16, keep weights and losses in float32."""
    export: str = ""
    """What to ship the student as: saved_model, tflite, or both with a comma."""

    def __post_init__(self):
        for name, (photographs, drawn) in _DEFAULTS.items():
            if getattr(self, name) is None:
                value = photographs if self.data_dir else drawn
                object.__setattr__(self, name, value)  # the dataclass is frozen
        positive = "steps", "batch_size", "learning_rate", "upscale", "channels", "units"
        settings.check_numbers(self, positive)
        at_least_0 = "min_height", "group_aspect", "teacher_epsilon"
        settings.check_numbers(self, at_least_0, "at least 0")
        for name in ("crop_height", "crop_width"):
            value = getattr(self, name)
            if value <= 0 or value % _MULTIPLE:
                settings.refuse(name, f"a multiple of {_MULTIPLE}", value)
        settings.check_method_weight(self)
        for one in one_for_each_balance(self):
            settings.balance_of(one)
        settings.exports_of(self)


def main(config):
    """Trains, evaluates, draws and ships a student.

    A run that was ended early goes on from its last checkpoint.

    Args:
        config: A `Config`.

    Returns:
        The content of results.json: MR^-2 in percent of each subset, times in seconds.
        Nothing on machines other than the first.

    Raises:
        ValueError, TypeError, OSError: The run cannot start; the message says why.
        FloatingPointError: The loss became infinite or NaN; no student is left.
    """
    return workdir.results_of(config) or train(config, *prepare(config))


@devices.leaves_settings
def prepare(config):
    """All that can go wrong before training; returns (data, model, student).

    Of several balances the first is prepared.
    """
    config = one_for_each_balance(config)[0]
    workdir.check(config)
    strategy = devices.open_strategy(config.strategy)
    data = open_data(config)
    run.steps_per_epoch(config, data.train, strategy)
    config = with_embedded_teacher(config)
    with strategy.scope():
        keras.utils.set_random_seed(config.seed)
        student = build_student(config, data)
        model = build_model(config, student)
        model.compile(optimizer=build_optimizer(config))
    return data, model, student


@devices.leaves_settings
def train(config, data, model, student):
    """Fits, evaluates, draws and ships what `prepare` returned; returns the results."""
    if "," in config.balance:
        del data, model, student
        return sweep(config)
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
        names_of=lambda truth: [data.train.names[index] for index in truth["index"]],
    )
    if not writes:
        return {}
    workdir.save_model(student, directory / "student.keras")
    workdir.write_labels(directory / "labels.txt", CLASS_NAMES)
    detections = detect(config, data, student)
    given = data.test.with_given_ids(detections)
    workdir.write_json(directory / "detections.json", given)
    truth, category_id = data.test.ground_truth(), data.test.category_id
    subsets = subsets_of(config)
    curves = {
        name: miss_rate_curve(truth, given, subset, category_id)
        for name, subset in subsets.items()
    }
    pictures.draw_miss_rates(directory / "miss_rates.png", curves)
    pictures.draw_people(
        directory / "predictions.png", evaluation_batches(config, data), data, detections
    )
    results = {
        "method": config.method,
        "class_names": CLASS_NAMES,
        "training_images": len(data.train),
        "test_images": len(data.test),
        "training_seconds": run.training_seconds(directory),
        "miss_rate": {
            name: in_percent(log_average_miss_rate(truth, given, subset, category_id))
            for name, subset in subsets.items()
        },
        "skipped_images": [*skipped, *data.test.skipped],
        **ship(config, data, student, directory),
    }
    return workdir.write_results(directory, results)


def one_for_each_balance(config):
    """The `Config`s of a list of balances, each with a workdir of its own within."""
    if "," not in config.balance:
        return [config]
    return [
        dataclasses.replace(
            config, balance=one, workdir=f"{config.workdir}/balance_{one}"
        )
        for one in config.balance.split(",")
    ]


def sweep(config):
    """Runs one balance after the other (Fig. 9); returns the results of each."""
    results = {one.balance: main(one) for one in one_for_each_balance(config)}
    directory = workdir.create(config)
    pictures.draw_sweep(
        directory / "sweep.png",
        {balance: result["miss_rate"] for balance, result in results.items()},
    )
    return workdir.write_results(directory, results)


def open_data(config):
    if config.data_dir:
        return detection.open_dataset(
            config.data_dir,
            config.min_height,
            config.group_aspect or None,
            config.category,
        )
    logging.warning(
        "No --data_dir: training on drawn streets, a stand-in and no evidence."
    )
    return embedded.streets_with_people("day")


def crop_size(config):
    """(height, width) of training crops in pixels."""
    if config.data_dir:
        return config.crop_height, config.crop_width
    return _DRAWN_CROP


def upscale_of(config):
    return config.upscale if config.data_dir else 1.0


def min_height_of(config):
    return config.min_height if config.data_dir else embedded.MIN_HEIGHT


def subsets_of(config):
    """The official four, and the people that the student was to learn."""
    return {
        **{name: name for name in _SUBSETS},
        "learned": Subset((min_height_of(config), math.inf)),
    }


def training_batches(config, data, epochs, context=None):
    """Random parts of the images at random scales, and their mirror images."""
    transform = detection.augment.random_scale_crop_flip(
        crop_size(config), upscale_of(config)
    )
    return data.train.training_batches(
        config.batch_size, transform, config.seed, epochs, context
    )


def evaluation_batches(config, data):
    """One test image at a time, as a whole."""
    return data.test.batches(1, detection.augment.enlarged(upscale_of(config), _MULTIPLE))


def build_student(config, data):
    """Faster R-CNN with anchors as high as the people to learn are."""
    return FasterRCNN(
        load_backbone(config),
        feature_strides=_FEATURE_STRIDES,
        anchor_heights=anchor_heights(config, data.train.people),
        channels=config.channels,
        units=config.units,
    )


def load_backbone(config):
    if config.student_backbone.endswith(".keras"):
        value, any_size = config.student_backbone, networks.ANY_SIZE
        backbone = networks.from_file("student_backbone", value, any_size)
        if graph.functional(backbone) is None:
            rule = "a Functional network without a head, not a detector"
            settings.refuse("student_backbone", rule, value)
        return backbone
    return networks.backbone(config, "student_backbone")


def anchor_heights(config, people):
    """Pixels, evenly in logarithms, over the heights of nearly all people to learn.

    Every map gets one at least.
    """
    heights = np.concatenate(
        [of_image.boxes[~of_image.ignored, 3] for of_image in people]
    )
    heights = heights[heights >= min_height_of(config)]
    if not len(heights):
        settings.refuse(
            "min_height", "such that there are people of it", min_height_of(config)
        )
    low, high = upscale_of(config) * np.quantile(heights, [0.01, 0.99])
    low = min(low, CELLS * _FEATURE_STRIDES[1] - 1)
    high = max(high, CELLS * _FEATURE_STRIDES[-1])
    return tuple(np.geomspace(low, high, _ANCHORS).round(1).tolist())


def with_embedded_teacher(config):
    """`config` with a teacher that knows people at dusk, if the data are drawn ones."""
    if config.method == "none" or config.teacher:
        return config
    if config.data_dir:
        settings.refuse(
            "teacher", "given with --data_dir, unless --method=none", config.teacher
        )
    return dataclasses.replace(config, teacher=str(teachers.pose_network()))


def load_teacher(config):
    if pathlib.Path(config.teacher).suffix in _STATE_DICTS:
        return load_resnet50(config.teacher, config.teacher_epsilon or None)
    return networks.teacher(config, crop_size(config))


def build_model(config, student):
    """What `fit` trains: `student` itself or inside the method."""
    if config.method == "none":
        return student
    return run.build_model(config, load_teacher(config), student)


def build_optimizer(config):
    """Adam, as CSP (Liu et al. 2019) has it on CityPersons, and polynomial decay."""
    schedule = keras.optimizers.schedules.PolynomialDecay(
        config.learning_rate, config.steps, end_learning_rate=0.0, power=0.9
    )
    return keras.optimizers.Adam(schedule, global_clipnorm=10.0)


def detect(config, data, student):
    """What the student finds on the test images, in pixels of those, as COCO has it.

    An image's id is its index.
    """
    network = functools.lru_cache(maxsize=16)(
        lambda *size: with_detections(student, *size)
    )
    progress = keras.utils.Progbar(len(data.test), unit_name="image")
    detections = []
    batches = evaluation_batches(config, data)
    for count, (images, truth) in enumerate(batches, start=1):
        found = network(*images.shape[1:3]).predict_on_batch(images)
        boxes = found["boxes"][0] / np.tile(truth["scale"][0], 2)
        for box, score in zip(boxes, found["scores"][0]):
            if score > 0:
                x, y, right, bottom = map(float, box)
                detections.append(
                    {
                        "image_id": int(truth["index"][0]),
                        "category_id": 1,
                        "bbox": [x, y, right - x, bottom - y],
                        "score": float(score),
                    }
                )
        progress.update(count)
    return detections


def in_percent(value):
    """Rounded, None for NaN, which JSON does not have."""
    return None if math.isnan(value) else round(value, 2)


def ship(config, data, student, directory):
    """Exports for one image of the training crops' size, or for a whole drawn street.

    The file is compared with the student on parts of the training images of that size.
    """
    if not settings.exports_of(config):
        return {}
    size = crop_size(config) if config.data_dir else embedded.STREET_SIZE
    network = with_detections(student, *size)
    transform = detection.augment.random_scale_crop_flip(size, upscale_of(config))
    batches = data.train.training_batches(
        config.batch_size, transform, config.seed, range(1)
    )
    (images, _) = next(iter(batches))
    return run.ship(
        config, network, directory, calibration_data=images.numpy(), labels=CLASS_NAMES
    )


if __name__ == "__main__":
    shell.run(Config, prepare, train)
