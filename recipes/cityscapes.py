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
trained on streets at dusk; its results mean nothing beyond it. It takes 15 to 20 minutes
on two cores:

    python -m keras_hybrid.recipes.cityscapes --export=tflite
"""

import dataclasses
import pathlib
from typing import ClassVar

import keras
import tensorflow as tf

from keras_hybrid.data import segmentation
from keras_hybrid.data.segmentation import SegmentationDataset, augment
from keras_hybrid.metrics import MeanIoU
from keras_hybrid.models.segmentation import evaluation
from keras_hybrid.models.segmentation.deeplab_v2 import at_size, with_label_map
from keras_hybrid.models.segmentation.dilation import undilated_switch_points
from keras_hybrid.recipes import engine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(engine.settings.CropConfig):
    """Settings; the defaults are the paper's."""

    defaults: ClassVar = {
        "student": ("VGG16", "MobileNet"),
        "steps": (40_000, 600),
        "learning_rate": (1e-3, 0.03),
        "crop_height": (512, 64),
        "crop_width": (1024, 128),
        "output_stride": (8, 16),
    }
    evaluation_flags: ClassVar = ("also_evaluate",)
    export_flags: ClassVar = ("export", "export_label_map")

    workdir: str = "runs/cityscapes"
    student: str | None = None
    """Keras Applications network for DeepLab v2 to build on, or .keras file to start
    from; VGG16 by default, MobileNet on synthetic data."""
    steps: int | None = None
    """Number of training steps; 40 000 by default, 600 on synthetic data."""
    learning_rate: float | None = None
    """Initial rate, with polynomial decay; 1e-3 by default, 0.03 on synthetic data."""
    crop_height: int | None = None
    """Height in pixels of crops and exports; 512 by default, 64 on synthetic data."""
    crop_width: int | None = None
    """Width in pixels of both; 1024 by default, 128 on synthetic data."""
    output_stride: int | None = None
    """Stride of that network's last feature map; 8, or 16 on synthetic data."""
    weight_decay: float = 5e-4
    """Factor of the L2 penalty, whose gradient enters the momentum."""
    also_evaluate: str = ""
    """Another data set of the same classes to evaluate on, such as the teacher's; with
    synthetic data also "dusk"."""
    export_label_map: bool = False
    """Whether to export the class of each pixel instead of one score per class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        engine.settings.check_numbers(self, ("weight_decay",), "at least 0")


@dataclasses.dataclass(frozen=True)
class Data(SegmentationDataset):
    """The data set, and that of --also_evaluate."""

    other: SegmentationDataset | None


def open_data(config: Config) -> Data:
    """Opens the data sets of the flags, or renders the synthetic ones."""
    if config.data_dir:
        data = segmentation.open_dataset(config.data_dir, for_training=True)
    else:
        data = engine.synthetic.streets_with_labels("day")
    other = None
    if config.also_evaluate == "dusk" and not config.data_dir:
        other = engine.synthetic.streets_with_labels("dusk")
    elif config.also_evaluate:
        other = engine.settings.opened(config, "also_evaluate", segmentation.open_dataset)
        if other.class_names != data.class_names:
            rule = f"a data set of the classes {', '.join(data.class_names)}"
            engine.settings.refuse("also_evaluate", rule, config.also_evaluate)
    return Data(data.train, data.test, data.class_names, other)


def training_batches(
    config: Config,
    data: Data,
    epochs: range,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Returns batches of random crops at random scales, mirrored in half of the cases."""
    transform = augment.random_scale_crop_flip(config.crop_size)
    return data.train.training_batches(
        config.batch_size, transform, config.seed, epochs, context
    )


def evaluation_batches(data: SegmentationDataset) -> tf.data.Dataset:
    """Returns batches of one test image each, at full size."""
    return data.test.batches(1, augment.padded_to_multiple(Config.multiple))


def build(config: Config, data: Data) -> tuple[keras.Model, keras.Model]:
    """Returns the student and the compiled model that trains it."""
    student = engine.students.segmenter(config, len(data.class_names))
    if config.method == "none":
        model = engine.run.Alone(student.input, student.output)
    else:
        teacher = engine.networks.teacher(config, config.crop_size)
        points = engine.networks.for_each(
            teacher, lambda one: undilated_switch_points(one, student)
        )
        model = engine.run.build_model(config, teacher, student, points)
    model.compile(
        optimizer=build_optimizer(config),
        loss=keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=segmentation.IGNORED
        ),
        metrics=[MeanIoU(len(data.class_names))],
    )
    return student, model


def build_optimizer(config: Config) -> keras.optimizers.SGD:
    """Returns SGD with polynomial decay, as in Tsai et al. (2018), the paper's setup.

    All weights share one learning rate, as in Tsai's code for VGG16, the paper's student
    (AdaptSegNet, `deeplab_vgg.py`). For ResNet-101, that code trains the last layer at
    ten times the rate and freezes batch normalization (`deeplab_multi.py`); here it is
    trained like VGG16, since the paper gives no hyperparameters for the teacher.
    """
    schedule = engine.optimizers.polynomial_decay(config.learning_rate, config.steps)
    return engine.optimizers.sgd(schedule, config.weight_decay)


def evaluate(
    config: Config, data: Data, student: keras.Model, directory: pathlib.Path
) -> engine.Results:
    """Returns mIoU and IoU of each class in percent; draws predictions."""
    predict = evaluation.label_maps_of(student)
    batches, count = evaluation_batches(data), len(data.test)
    names = data.class_names
    results = evaluation.mean_iou(predict, batches, count, names)
    skipped = data.test.skipped
    if data.other:
        results["also_evaluate"] = evaluation.mean_iou(
            predict, evaluation_batches(data.other), len(data.other.test), names
        )
        skipped = [*skipped, *data.other.test.skipped]
    engine.pictures.draw_label_maps(
        directory / "predictions.png", predict, batches, count, names
    )
    return {**results, "skipped_images": skipped}


def export(
    config: Config, data: Data, student: keras.Model, directory: pathlib.Path
) -> engine.Results:
    """Exports the student for images of the crops' size, or whole synthetic streets."""
    size = config.crop_size if config.data_dir else engine.synthetic.STREET_SIZE
    network = at_size(student, *size)
    if config.export_label_map:
        network = with_label_map(network)
    return engine.run.export(config, network, directory, labels=data.class_names)


RECIPE = engine.Recipe(
    config=Config,
    open_data=open_data,
    synthetic_teacher=lambda data: engine.teachers.street_segmenter(),
    build=build,
    training_batches=training_batches,
    evaluate=evaluate,
    export=export,
    scores=lambda results: {"mIoU": results["miou"]},
    unit="mIoU in %",
)
main, prepare, train = RECIPE.main, RECIPE.prepare, RECIPE.train

if __name__ == "__main__":
    engine.shell.run(RECIPE)
