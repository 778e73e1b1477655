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
import pathlib

import keras
import tensorflow as tf

from keras_hybrid.data import classification
from keras_hybrid.data.classification import ClassificationDataset, augment
from keras_hybrid.models.segmentation.deeplab_v2 import at_size
from keras_hybrid.recipes import engine

_PHOTOGRAPH_SIZE = 224  # height and width in pixels of crops from photographs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(engine.settings.Config):
    """Settings; the defaults are the paper's."""

    workdir: str = "runs/imagenet"
    teacher: str = "ResNet50"
    student: str = "MobileNet"
    """Keras Applications network, or .keras file of a classifier to start from."""
    student_weights: str = "random"
    """Initial weights of that network: random, imagenet or a file; always random on
    synthetic data."""
    balance: str = "1"
    """"dynamic" or a fixed alpha, 1 for the plain sum of losses, as in Table 1; several,
    with commas, are run one after the other."""
    switch_points: str = "2,8,16"
    """Strides at which hybrid paths change network, or "all" that both networks have."""
    epochs: int = 90
    """Passes over the training images."""
    batch_size: int = 256
    learning_rate: float = 0.1
    """Learning rate for batch size 256, scaled in proportion to the batch size; divided
    by 10 after each third of the run."""
    weight_decay: float = 1e-4
    """Factor of the L2 penalty, whose gradient enters the momentum."""

    def __post_init__(self) -> None:
        super().__post_init__()
        engine.settings.check_numbers(self, ("epochs", "learning_rate"))
        engine.settings.check_numbers(self, ("weight_decay",), "at least 0")
        engine.settings.switch_points_of(self)


def open_data(config: Config) -> ClassificationDataset:
    """Opens the data set in --data_dir, or renders the synthetic crops."""
    if config.data_dir:
        return classification.open_dataset(config.data_dir)
    return engine.synthetic.street_crops()


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
    augmentation = augment.pad_crop_flip if small else augment.random_resized_crop_flip
    transform = augmentation(image_size(data))
    return data.train.training_batches(
        config.batch_size, transform, config.seed, epochs, context
    )


def evaluation_batches(
    config: Config, data: ClassificationDataset, batch_size: int | None = None
) -> tf.data.Dataset:
    """Returns batches of centre crops, or of whole images if all share one size."""
    whole = augment.as_is if data.image_size else augment.resize_center_crop
    return data.test.batches(batch_size or config.batch_size, whole(image_size(data)))


def build(config: Config, data: ClassificationDataset) -> tuple[keras.Model, keras.Model]:
    """Returns the student and the compiled model that trains it."""
    size, classes = image_size(data), len(data.class_names)
    student = engine.students.classifier(config, size, classes)
    if config.method == "none":
        model = engine.run.Alone(student.input, student.output)
    else:
        if engine.settings.distils(config):
            teacher = engine.networks.classifier_to_distil(config, (size, size), classes)
        else:
            teacher = engine.networks.teacher(config, (size, size))
        points = engine.networks.switch_points(config, teacher, student)
        model = engine.run.build_model(config, teacher, student, points)
    model.compile(
        optimizer=build_optimizer(config, len(data.train) // config.batch_size),
        loss="sparse_categorical_crossentropy",
        metrics=accuracies(),
    )
    return student, model


def build_optimizer(config: Config, steps_per_epoch: int) -> keras.optimizers.SGD:
    """Returns SGD with the settings of Heo et al. (2019), as in the paper, clipped."""
    peak = config.learning_rate * config.batch_size / 256
    thirds = [round(config.epochs * steps_per_epoch * part / 3) for part in (1, 2)]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        thirds, [peak, peak / 10, peak / 100]
    )
    return engine.optimizers.sgd(schedule, config.weight_decay)


def accuracies() -> list[keras.metrics.Metric]:
    """Returns the metrics top-1 and top-5 accuracy."""
    return [
        keras.metrics.SparseCategoricalAccuracy(name="top1"),
        keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5"),
    ]


def evaluate(
    config: Config,
    data: ClassificationDataset,
    student: keras.Model,
    directory: pathlib.Path,
) -> engine.Results:
    """Returns top-1 and top-5 accuracy of the student on the test images in percent."""
    student.compile(loss="sparse_categorical_crossentropy", metrics=accuracies())
    with engine.run.quiet_about_length():
        values = student.evaluate(evaluation_batches(config, data), return_dict=True)
    scores = {name: round(100 * float(values[name]), 3) for name in ("top1", "top5")}
    return {**scores, "skipped_images": data.test.skipped}


def export(
    config: Config,
    data: ClassificationDataset,
    student: keras.Model,
    directory: pathlib.Path,
) -> engine.Results:
    """Exports the student; a TFLite file is evaluated on all test images."""
    network = at_size(student, image_size(data), image_size(data))
    results = engine.run.export(config, network, directory, labels=data.class_names)
    if "tflite" in engine.settings.exports_of(config):
        results["tflite_top1"] = engine.run.top1_of_file(
            directory / "student.tflite",
            evaluation_batches(config, data, batch_size=1),
            len(data.test),
        )
    return results


RECIPE = engine.Recipe(
    config=Config,
    open_data=open_data,
    synthetic_teacher=lambda data: engine.teachers.street_classifier(
        data.train, len(data.class_names), data.image_size
    ),
    build=build,
    training_batches=training_batches,
    validation_batches=evaluation_batches,
    evaluate=evaluate,
    export=export,
    scores=lambda results: {"top-1": results["top1"], "top-5": results["top5"]},
    unit="accuracy in %",
)
main, prepare, train = RECIPE.main, RECIPE.prepare, RECIPE.train

if __name__ == "__main__":
    engine.shell.run(RECIPE)
