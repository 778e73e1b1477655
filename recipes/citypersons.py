"""Table 4 of the paper: a pose network teaches a pedestrian detector.

The paper's student is a Faster R-CNN on MobileNet, or on ResNet-50 (Fig. 8), trained on
CityPersons; its teacher is OpenPifPaf's ResNet-50, trained on COCO keypoints. The paper
says about the training only that it is the same with and without the teacher; the
schedule below is ours. The second command reproduces Fig. 9, which compares fixed values
of alpha with the dynamic one:

    python -m keras_hybrid.recipes.citypersons --data_dir=/data/cityscapes \
        --workdir=runs/table4 --teacher=openpifpaf_resnet50.npz
    python -m keras_hybrid.recipes.citypersons --data_dir=/data/cityscapes \
        --workdir=runs/fig9 --teacher=openpifpaf_resnet50.npz \
        --balance=0.1,0.3,1,3,dynamic

Paper: MR^-2 of 16.19 on the reasonable subset, 21.12 small, 64.11 heavily occluded, 46.85
all; 17.20, 21.87, 61.76 and 47.09 without the teacher. Ours: not yet measured;
docs/results.md has a comparison on CamVid. Without --data_dir, the recipe is a demo on
synthetic streets by day, with a teacher that was trained to find people's joints at dusk;
its results mean nothing beyond it. The demo takes 4 to 6 minutes on two cores, including
the training of the teacher:

    python -m keras_hybrid.recipes.citypersons --export=tflite
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_hybrid.data import detection
from keras_hybrid.data.detection import DetectionDataset
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

# Evaluation pads images to multiples of this many pixels, which all strides divide.
_MULTIPLE = 32
_FEATURE_STRIDES = 8, 16, 32
_ANCHORS = 11
_SUBSETS = "reasonable", "reasonable_small", "heavy", "all"
CLASS_NAMES = "background", "person"
"""Names of the class indices in a detection; index 0 means no detection."""
_STATE_DICTS = ".npz", ".safetensors"
_DRAWN_CROP = 96, 192  # (height, width) of training crops from synthetic streets
# Defaults of flags for photographs, and for synthetic data, on which training takes
# minutes.
_DEFAULTS = {
    "steps": (12_000, 600),
    "batch_size": (8, 2),
    "learning_rate": (2e-4, 2e-3),
    "channels": (256, 32),
    "units": (1024, 128),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings; the schedule is ours, since the paper gives none for this experiment."""

    data_dir: str = ""
    """Cityscapes with CityPersons, or folders with COCO-style JSON; synthetic data if not
    given."""
    workdir: str = "runs/citypersons"
    """Directory for the config, metrics, pictures, student and exports."""
    teacher: str = ""
    """A .keras file, a .npz or .safetensors file of a PyTorch ResNet-50, or a Keras
    Applications network with ImageNet weights."""
    teacher_preprocessing: Literal["inside", "caffe", "tf", "torch", "bgr"] = "inside"
    """Preprocessing that a .keras file of a teacher needs; inside if it takes raw RGB."""
    teacher_epsilon: float = 0.0
    """Epsilon of batch normalization for a PyTorch file that does not record it; 0 for
    that of the file."""
    student_backbone: str = "MobileNet"
    """Keras Applications network, or .keras file of one, for Faster R-CNN to build on."""
    student_weights: str = "imagenet"
    """Initial weights of that network: imagenet, random or a file; always random on
    synthetic data."""
    method: settings.Method = "hybrid"
    """Hybrid forward, none (the student alone), or one of keras_hybrid.baselines."""
    method_weight: float | None = None
    """Weight of a baseline's loss; that of the baseline's paper, or 1, if not given."""
    balance: str = "dynamic"
    """"dynamic" or a fixed alpha; several, with commas, are run one after the other."""
    steps: int | None = None
    """Number of training steps; 12 000 if not given, 600 on synthetic data."""
    batch_size: int | None = None
    """Images per training step, over all GPUs together; 8 if not given, 2 on synthetic
    data."""
    crop_height: int = 640
    """Height in pixels of the training crops and of the exported student's images."""
    crop_width: int = 1280
    """Width in pixels of both; synthetic data has sizes of its own."""
    upscale: float = 1.3
    """Factor by which all images are enlarged, in training and evaluation; 1 on synthetic
    data."""
    min_height: float = 50.0
    """Height in pixels of the smallest people to train on, before upscaling; synthetic
    data has its own."""
    category: str | None = None
    """Name or id of the category to detect in COCO-style JSON; person or pedestrian if
    not given."""
    group_aspect: float = 0.0
    """Ratio of width to height from which on boxes are ignored, as groups of people; 0 to
    ignore none."""
    learning_rate: float | None = None
    """Initial learning rate, which decays to 0 as (1 - step / steps) ** 0.9; 2e-4 if not
    given, 2e-3 on synthetic data."""
    channels: int | None = None
    """Channels of the feature pyramid; 256 if not given, 32 on synthetic data."""
    units: int | None = None
    """Units of the two dense layers that classify proposals; 1024 if not given, 128 on
    synthetic data."""
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
        for name, (photographs, synthetic) in _DEFAULTS.items():
            if getattr(self, name) is None:
                value = photographs if self.data_dir else synthetic
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


def main(config: Config) -> dict[str, Any]:
    """Trains, evaluates and exports a student, with pictures of its predictions.

    A run that was interrupted resumes from its last checkpoint.

    Args:
        config: Settings of the run.

    Returns:
        The content of results.json: MR^-2 in percent on each subset, times in seconds;
        for several balances, such results by balance. Empty on machines other than the
        first.

    Raises:
        ValueError, TypeError, OSError: The run cannot start; the message says why.
        FloatingPointError: The loss became infinite or NaN; no student is saved.
    """
    return workdir.results_of(config) or train(config, *prepare(config))


@devices.leaves_settings
def prepare(config: Config) -> tuple[DetectionDataset, keras.Model, FasterRCNN]:
    """Does all that can fail before training; returns (data, compiled model, student).

    Of several balances, it prepares the first one.
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
def train(
    config: Config, data: DetectionDataset, model: keras.Model, student: FasterRCNN
) -> dict[str, Any]:
    """Fits, evaluates and exports what `prepare` returned; returns the results."""
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


def one_for_each_balance(config: Config) -> list[Config]:
    """Returns a `Config` for each balance; several have workdirs inside the given one."""
    if "," not in config.balance:
        return [config]
    return [
        dataclasses.replace(
            config, balance=one, workdir=f"{config.workdir}/balance_{one}"
        )
        for one in config.balance.split(",")
    ]


def sweep(config: Config) -> dict[str, Any]:
    """Runs one balance after the other (Fig. 9); returns the results by balance."""
    results = {one.balance: main(one) for one in one_for_each_balance(config)}
    directory = workdir.create(config)
    pictures.draw_sweep(
        directory / "sweep.png",
        {balance: result["miss_rate"] for balance, result in results.items()},
    )
    return workdir.write_results(directory, results)


def open_data(config: Config) -> DetectionDataset:
    """Opens the data set in --data_dir, or renders the synthetic one."""
    if config.data_dir:
        return detection.open_dataset(
            config.data_dir,
            config.min_height,
            config.group_aspect or None,
            config.category,
        )
    logging.warning(
        "No --data_dir: training on synthetic streets. The results mean nothing beyond "
        "this demo."
    )
    return embedded.streets_with_people("day")


def crop_size(config: Config) -> tuple[int, int]:
    """Returns the (height, width) of training crops in pixels."""
    if config.data_dir:
        return config.crop_height, config.crop_width
    return _DRAWN_CROP


def upscale_of(config: Config) -> float:
    """Returns the factor by which images are enlarged, before random scales."""
    return config.upscale if config.data_dir else 1.0


def min_height_of(config: Config) -> float:
    """Returns the height in pixels of the smallest people to train on."""
    return config.min_height if config.data_dir else embedded.MIN_HEIGHT


def subsets_of(config: Config) -> dict[str, str | Subset]:
    """Returns the four official subsets, and the training subset as "learned".

    The latter is all people of at least the minimum height in training.
    """
    return {
        **{name: name for name in _SUBSETS},
        "learned": Subset((min_height_of(config), math.inf)),
    }


def training_batches(
    config: Config,
    data: DetectionDataset,
    epochs: range,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Returns batches of random crops at random scales and brightness.

    They are mirrored in half of the cases.
    """
    transform = detection.augment.random_scale_crop_flip(
        crop_size(config), upscale_of(config)
    )
    return data.train.training_batches(
        config.batch_size, transform, config.seed, epochs, context
    )


def evaluation_batches(config: Config, data: DetectionDataset) -> tf.data.Dataset:
    """Returns batches of one whole test image each."""
    return data.test.batches(1, detection.augment.enlarged(upscale_of(config), _MULTIPLE))


def build_student(config: Config, data: DetectionDataset) -> FasterRCNN:
    """Returns a Faster R-CNN whose anchors are as high as the people to train on."""
    return FasterRCNN(
        load_backbone(config),
        feature_strides=_FEATURE_STRIDES,
        anchor_heights=anchor_heights(config, data.train.people),
        channels=config.channels,
        units=config.units,
    )


def load_backbone(config: Config) -> keras.Model:
    """Returns the network of --student_backbone."""
    if config.student_backbone.endswith(".keras"):
        value, any_size = config.student_backbone, networks.ANY_SIZE
        backbone = networks.from_file("student_backbone", value, any_size)
        if graph.functional(backbone) is None:
            rule = "a Functional network without a head, not a detector"
            settings.refuse("student_backbone", rule, value)
        return backbone
    return networks.backbone(config, "student_backbone")


def anchor_heights(
    config: Config, people: Sequence[detection.People]
) -> tuple[float, ...]:
    """Returns anchor heights in pixels of the enlarged images.

    Evenly spaced in log space, they range from the 1st to the 99th percentile of the
    heights of people to train on, and further where a feature map would otherwise have no
    anchor.
    """
    heights = np.concatenate(
        [of_image.boxes[~of_image.ignored, 3] for of_image in people]
    )
    heights = heights[heights >= min_height_of(config)]
    if not len(heights):
        settings.refuse(
            "min_height",
            "such that there are people of at least that height",
            min_height_of(config),
        )
    low, high = upscale_of(config) * np.quantile(heights, [0.01, 0.99])
    low = min(low, CELLS * _FEATURE_STRIDES[1] - 1)
    high = max(high, CELLS * _FEATURE_STRIDES[-1])
    return tuple(np.geomspace(low, high, _ANCHORS).round(1).tolist())


def with_embedded_teacher(config: Config) -> Config:
    """Adds a teacher trained to find joints at dusk, if the data is synthetic."""
    if config.method == "none" or config.teacher:
        return config
    if config.data_dir:
        settings.refuse(
            "teacher", "given with --data_dir, unless --method=none", config.teacher
        )
    return dataclasses.replace(config, teacher=str(teachers.pose_network()))


def load_teacher(config: Config) -> keras.Model:
    """Returns the network of --teacher, which takes raw RGB."""
    if pathlib.Path(config.teacher).suffix in _STATE_DICTS:
        return load_resnet50(config.teacher, config.teacher_epsilon or None)
    return networks.teacher(config, crop_size(config))


def build_model(config: Config, student: FasterRCNN) -> keras.Model:
    """Returns the model to fit: `student` itself, or wrapped by the method."""
    if config.method == "none":
        return student
    return run.build_model(config, load_teacher(config), student)


def build_optimizer(config: Config) -> keras.optimizers.Adam:
    """Returns Adam, as in CSP (Liu et al. 2019) on CityPersons, with polynomial decay."""
    schedule = keras.optimizers.schedules.PolynomialDecay(
        config.learning_rate, config.steps, end_learning_rate=0.0, power=0.9
    )
    return keras.optimizers.Adam(schedule, global_clipnorm=10.0)


def detect(
    config: Config, data: DetectionDataset, student: FasterRCNN
) -> list[dict[str, Any]]:
    """Returns the student's COCO-style detections, in pixels of the original test images.

    The id of an image is its index.
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


def in_percent(value: float) -> float | None:
    """Rounds a percentage to two digits; None for NaN, which JSON lacks."""
    return None if math.isnan(value) else round(value, 2)


def ship(
    config: Config, data: DetectionDataset, student: FasterRCNN, directory: pathlib.Path
) -> dict[str, Any]:
    """Exports the student for images of the crops' size, or for whole synthetic streets.

    The TFLite file is compared with the student on crops of that size from the training
    images.

    Returns:
        The entries for results.json.
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
