"""What the runs of the study start from: images, teachers, students."""

import keras
import numpy as np
from study_plan import (
    GPU_TEACHER,
    HALF_VGG16,
    IMAGENET_TEACHER,
    MOBILENET,
    MORE_SEEDS,
    RANDOM_TEACHER,
)

from keras_hybrid import applications
from keras_hybrid.recipes.workdir import save_model
from keras_hybrid.training import atomic_write

TEACHERS = "vgg16_imagenet.keras", "pose_mobilenet_coco_backbone.keras"


def prepare(materials, work):
    """Links the materials into `work` and takes CIFAR-10's images for the study."""
    work.mkdir(parents=True, exist_ok=True)
    links = {name: materials / "teachers" / name for name in TEACHERS}
    links["camvid"] = materials / "camvid"
    validation = work / "camvid_validation"
    validation.mkdir(exist_ok=True)
    for part in (materials / "camvid").iterdir():
        if "test" not in part.name:
            links[f"camvid_validation/{part.name}"] = part
    for name, target in links.items():
        if not (work / name).exists():
            (work / name).symlink_to(target)
    if not (work / HALF_VGG16).exists():
        network = keras.saving.load_model(work / TEACHERS[0])
        in_bfloat16(network)
        save_model(network, work / HALF_VGG16)
    if not (work / "cifar10_validation.npz").exists():
        split_cifar10(materials / "cifar10.npz", work)
    if not (work / RANDOM_TEACHER).exists():
        teacher = with_classifier(work / TEACHERS[0])
        save_model(teacher, work / IMAGENET_TEACHER)
        forget(teacher)
        save_model(teacher, work / RANDOM_TEACHER)
    if not (work / GPU_TEACHER).exists():
        # What it is made of; its weights come where the GPU is.
        (work / GPU_TEACHER).symlink_to(IMAGENET_TEACHER)
    for seed in MORE_SEEDS:
        student = work / MOBILENET.format(seed)
        if not student.exists():
            save_model(mobilenet(seed), student)


def mobilenet(seed):
    """A student to start from."""
    # Needs TensorFlow; what `study_gpu` takes of this module does not.
    from keras_hybrid.recipes import networks

    keras.utils.set_random_seed(seed)
    return networks.from_scratch("MobileNet", input_shape=(32, 32, 3), classes=10)


def with_classifier(path):
    """ImageNet's VGG16 with ten classes to learn, for raw RGB."""
    keras.utils.set_random_seed(0)
    network = keras.saving.load_model(path)
    network.trainable = True
    network = applications.with_preprocessing(network, "torch")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(network.output)
    x = keras.layers.Dense(10, activation="softmax", name="classifier")(x)
    return keras.Model(network.input, x, name="vgg16")


def in_bfloat16(network):
    """Convolutions and pools compute so; weights and other layers stay as they are."""
    for layer in network.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.MaxPooling2D)):
            layer.dtype_policy = keras.DTypePolicy("mixed_bfloat16")


def forget(network):
    """Weights at random, of the scale that keeps that of the maps (He et al., 2015)."""
    for i, kernel in enumerate(w for w in network.weights if w.name == "kernel"):
        kernel.assign(keras.initializers.HeNormal(seed=i)(kernel.shape))
    for bias in (w for w in network.weights if w.name == "bias"):
        bias.assign(keras.ops.zeros(bias.shape))


def split_cifar10(path, work):
    """The first 5000 images to train on, or 500 ten times; the last 5000 to tune on."""
    with np.load(path) as arrays:
        x, y = arrays["x_train"], arrays["y_train"]
        test = {"x_test": arrays["x_test"], "y_test": arrays["y_test"]}
    validation = {"x_test": x[-5000:], "y_test": y[-5000:]}
    for name, count, tested in (
        ("cifar10_5k", 5000, test),
        ("cifar10_500", 500, test),
        ("cifar10_validation", 5000, validation),
    ):
        chosen = np.arange(5000) % count
        with atomic_write.staged(work / f"{name}.npz") as new, open(new, "wb") as file:
            np.savez(file, x_train=x[chosen], y_train=y[chosen], **tested)
