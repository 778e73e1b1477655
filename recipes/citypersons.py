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
synthetic streets by day, with a teacher that was trained to find people's joints in
scenes at dusk; its results mean nothing beyond it. It takes 4 to 11 minutes on two cores:

    python -m keras_hybrid.recipes.citypersons --export=tflite
"""

import dataclasses
import math
import pathlib

import keras
import tensorflow as tf

from keras_hybrid.data import detection
from keras_hybrid.data.detection import DetectionDataset, augment
from keras_hybrid.metrics import Subset
from keras_hybrid.models.detection import evaluation
from keras_hybrid.models.detection.faster_rcnn import FasterRCNN, with_detections
from keras_hybrid.recipes import engine

_SUBSETS = "reasonable", "reasonable_small", "heavy", "all"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(engine.settings.CropConfig):
    """Settings; the schedule is ours, since the paper gives none for this experiment."""

    defaults = {
        "steps": (12_000, 600),
        "batch_size": (8, 2),
        "learning_rate": (2e-4, 2e-3),
        "crop_height": (640, 96),
        "crop_width": (1280, 192),
        "upscale": (1.3, 1.0),
        "min_height": (50.0, engine.synthetic.MIN_HEIGHT),
        "channels": (256, 32),
        "units": (1024, 128),
    }

    workdir: str = "runs/citypersons"
    student_backbone: str = "MobileNet"
    """Keras Applications network, or .keras file of one, for Faster R-CNN to build on."""
    steps: int | None = None
    """Number of training steps; 12 000 by default, 600 on synthetic data."""
    batch_size: int | None = None
    """Images per training step, over all GPUs; 8 by default, 2 on synthetic data."""
    learning_rate: float | None = None
    """Initial rate, with polynomial decay; 2e-4 by default, 2e-3 on synthetic data."""
    crop_height: int | None = None
    """Height in pixels of crops and exports; 640 by default, 96 on synthetic data."""
    crop_width: int | None = None
    """Width in pixels of both; 1280 by default, 192 on synthetic data."""
    upscale: float | None = None
    """Factor by which all images are enlarged; 1.3 by default, 1 on synthetic data."""
    min_height: float | None = None
    """Height in pixels of the smallest people to train on, before upscaling; 50 by
    default, 16 on synthetic data."""
    category: str | None = None
    """Name or id of the category to detect in COCO-style JSON; person or pedestrian if
    not given."""
    group_aspect: float = 0.0
    """Ratio of width to height from which on boxes are ignored, as groups of people; 0 to
    ignore none."""
    channels: int | None = None
    """Channels of the feature pyramid; 256 by default, 32 on synthetic data."""
    units: int | None = None
    """Units of the box head's dense layers; 1024 by default, 128 on synthetic data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        engine.settings.check_numbers(self, ("upscale", "channels", "units"))
        engine.settings.check_numbers(self, ("min_height", "group_aspect"), "at least 0")


def open_data(config: Config) -> DetectionDataset:
    """Opens the data set in --data_dir, or renders the synthetic one."""
    if config.data_dir:
        flags = config.min_height, config.group_aspect or None, config.category
        return detection.open_dataset(config.data_dir, *flags)
    return engine.synthetic.streets_with_people("day", min_height=config.min_height)


def training_batches(
    config: Config,
    data: DetectionDataset,
    epochs: range,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Returns batches of random crops at random scales and brightness, half mirrored."""
    transform = augment.random_scale_crop_flip(config.crop_size, config.upscale)
    return data.train.training_batches(
        config.batch_size, transform, config.seed, epochs, context
    )


def evaluation_batches(config: Config, data: DetectionDataset) -> tf.data.Dataset:
    """Returns batches of one whole test image each."""
    return data.test.batches(1, augment.enlarged(config.upscale, config.multiple))


def build(config: Config, data: DetectionDataset) -> tuple[keras.Model, keras.Model]:
    """Returns the student and the compiled model that trains it."""
    model = student = engine.students.detector(config, data.train)
    if config.method != "none":
        teacher = engine.networks.teacher(config, config.crop_size)
        model = engine.run.build_model(config, teacher, student)
    model.compile(optimizer=build_optimizer(config))
    return student, model


def build_optimizer(config: Config) -> keras.optimizers.Adam:
    """Returns Adam, as in CSP (Liu et al. 2019) on CityPersons, with polynomial decay."""
    schedule = engine.optimizers.polynomial_decay(config.learning_rate, config.steps)
    return keras.optimizers.Adam(schedule, global_clipnorm=engine.optimizers.CLIP_NORM)


def subsets_of(config: Config) -> dict[str, str | Subset]:
    """Returns the four official subsets, and the training subset as "learned".

    The latter is all people of at least the minimum height in training.
    """
    training = {"learned": Subset((config.min_height, math.inf))}
    return {**{name: name for name in _SUBSETS}, **training}


def evaluate(
    config: Config, data: DetectionDataset, student: FasterRCNN, directory: pathlib.Path
) -> engine.Results:
    """Returns MR^-2 in percent on each subset; draws curves and predictions."""
    batches, test = evaluation_batches(config, data), data.test
    detections = evaluation.detections_of(student, batches, len(test))
    engine.workdir.write_json(
        directory / "detections.json", test.with_given_ids(detections)
    )
    rates, curves = evaluation.miss_rates(test, detections, subsets_of(config))
    engine.pictures.draw_miss_rates(directory / "miss_rates.png", curves)
    engine.pictures.draw_people(directory / "predictions.png", batches, data, detections)
    return {"miss_rate": rates, "skipped_images": test.skipped}


def export(
    config: Config, data: DetectionDataset, student: FasterRCNN, directory: pathlib.Path
) -> engine.Results:
    """Exports the student for images of the crops' size, or for whole synthetic streets.

    The TFLite file is compared with the student on training crops of that size.
    """
    if not config.data_dir:
        height, width = engine.synthetic.STREET_SIZE
        config = dataclasses.replace(config, crop_height=height, crop_width=width)
    images, _ = next(iter(training_batches(config, data, range(1))))
    return engine.run.export(
        config,
        with_detections(student, *config.crop_size),
        directory,
        calibration_data=images.numpy(),
        labels=data.class_names,
    )


RECIPE = engine.Recipe(
    config=Config,
    open_data=open_data,
    synthetic_teacher=lambda data: engine.teachers.pose_network(),
    build=build,
    training_batches=training_batches,
    evaluate=evaluate,
    export=export,
    scores=lambda results: results["miss_rate"],
    unit="MR$^{-2}$ in %",
)
main, prepare, train = RECIPE.main, RECIPE.prepare, RECIPE.train

if __name__ == "__main__":
    engine.shell.run(RECIPE)
