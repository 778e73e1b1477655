"""Time of a hybrid training step, compared with the steps that it is made of.

    python -m benchmarks.speed.step_time
    python -m benchmarks.speed.step_time --student=MobileNetV2
    python -m benchmarks.speed.step_time --teacher=ViT-S/16
    python -m benchmarks.speed.step_time --task=detection --image_size=256 --batch_size=2

By default, ResNet-50 teaches MobileNet V1 at 224x224 with batch size 16. Weights and
images are random. All contenders take turns in one process, so that a slow minute of the
machine affects all of them, and ratios are taken within a round; only peak memory is
measured in a separate process for each contender. The yardstick (at most 1.00 in
classification) is

    hybrid step / (2 x student step + teacher forward with the gradient of its input)

since the two hybrid paths together run each network once, in addition to the student's
own path. The student's head runs three times, not twice: where it is most of the student,
the yardstick is above 1. The rows "one path" take one hybrid path a step, both in turn;
their time is the mean of two steps. In the rows "bfloat16" the teacher computes in that.
The rows "recipe" are steps with the settings of the
recipes, and "plain student" is Keras's own step. Where PyTorch is installed, hand-written
PyTorch takes part with the default pair. The output of the last runs, with their machine,
is in step_time.txt beside this file.
"""

import contextlib

with contextlib.suppress(ImportError):
    # PyTorch needs it. It crashes after TensorFlow 2.21 (tensorflow/tensorflow#124205).
    import triton  # noqa: F401

import keras_hybrid  # before TensorFlow: oneDNN is on

# isort: split
import dataclasses
import importlib.util
import multiprocessing
import statistics
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf
from absl import app
from etils import eapp

from benchmarks import machine
from benchmarks.speed import step_pairs
from keras_hybrid.recipes.engine import devices, run

PLAIN, FORWARD, GRADIENT = "plain student", "teacher forward", "teacher input gradient"
DISTILLER, NAIVE, HYBRID = "keras Distiller", "naive hybrid", "keras_hybrid"
ONE_PATH, BFLOAT16 = "one path", "bfloat16 teacher"
ONE_PATH_BFLOAT16 = "one path, bfloat16"
RECIPE_PLAIN, RECIPE = "recipe, plain", "recipe, hybrid"
RECIPE_ONE_PATH = "recipe, one path"
# Contenders that take the two hybrid paths in turn.
_IN_TURN = ONE_PATH, ONE_PATH_BFLOAT16, RECIPE_ONE_PATH
TORCH_PLAIN, TORCH_HYBRID = "PyTorch, plain", "PyTorch, hybrid"
_IN_TORCH = "ResNet50", "MobileNet"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings; the defaults are those of the yardstick."""

    task: Literal["classification", "segmentation", "detection"] = "classification"
    """Task of the student, on which segmentation builds DeepLab v2 and detection Faster
    R-CNN."""
    teacher: str = "ResNet50"
    """Keras Applications network, or ViT-S/16."""
    student: str = "MobileNet"
    """Keras Applications network."""
    switch_points: tuple[int, ...] = ()
    """Strides at which paths change network; all that both networks have if not given."""
    image_size: int = 224
    """Height of the images in pixels; those of segmentation and detection are twice as
    wide."""
    batch_size: int = 16
    """Images per training step."""
    rounds: int = 12
    """Number of measured turns of each contender, after two turns to warm up."""
    memory: bool = True
    """Whether to measure peak memory too."""


class NaiveHybrid(keras_hybrid.HybridTransfer):
    """The method as the paper describes it: three passes to the losses under one tape.

    Each pass runs as in `HybridTransfer`, except that what two paths share runs twice.
    """

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            predictions = [path(x, training=True) for path in self.paths]
            l1, l2, l3 = (self._compile_loss(y, y_pred) for y_pred in predictions)
            loss = tf.stop_gradient(2 * l3 / (l1 + l2)) * (l1 + l2) + l3
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return {"loss": loss}


def contenders(config: Config) -> dict[str, Callable[[], Callable[[], object]]]:
    """Returns functions that build a contender, by name.

    A contender is a function that runs one step.
    """
    pair = step_pairs.build(
        config.task,
        config.teacher,
        config.student,
        config.image_size,
        config.batch_size,
        config.switch_points or None,
    )
    images, targets = tf.nest.map_structure(tf.constant, (pair.images, pair.targets))

    def forward():
        teacher = pair.teacher()
        step = tf.function(lambda: teacher(images, training=False))
        return lambda: step().numpy()

    def gradient():
        teacher = pair.teacher()

        @tf.function
        def step():
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(images)
                features = teacher(images, training=False)
            return tape.gradient(features, images)

        return lambda: step().numpy()

    def training(model):
        model.compile("sgd", loss=pair.loss)
        return lambda: model.train_on_batch(images, targets)

    def distiller():
        teacher, student = (
            keras_hybrid.applications.load(
                name, weights=None, input_shape=images.shape[1:], classes=1000
            )
            for name in (config.teacher, config.student)
        )
        loss = keras.distillation.LogitsDistillation()
        return training(keras.distillation.Distiller(teacher, student, loss))

    def hybrid(method=keras_hybrid.HybridTransfer, **settings):
        teacher, student = pair.teacher(), pair.student()
        points = pair.switch_points(teacher, student)
        return training(method(teacher, student, switch_points=points, **settings))

    def recipe(step):
        def in_recipe():
            with devices.settings_of(types.SimpleNamespace(mixed_precision=False)):
                return step()

        return in_recipe

    def alone():
        student = pair.student()
        return training(run.Alone(student.input, student.output))

    found = {
        PLAIN: lambda: training(pair.student()),
        FORWARD: forward,
        GRADIENT: gradient,
        HYBRID: hybrid,
        ONE_PATH: lambda: hybrid(paths_per_step=1),
        BFLOAT16: lambda: hybrid(teacher_dtype="bfloat16"),
        ONE_PATH_BFLOAT16: lambda: hybrid(paths_per_step=1, teacher_dtype="bfloat16"),
        RECIPE: lambda: recipe(hybrid()),
        RECIPE_ONE_PATH: lambda: recipe(hybrid(paths_per_step=1)),
    }
    if config.task != "detection":  # a detector trains without a wrapper
        found[RECIPE_PLAIN] = lambda: recipe(alone())
    if config.task == "classification":
        found[NAIVE] = lambda: hybrid(NaiveHybrid)
        if config.teacher != step_pairs.VIT:
            found[DISTILLER] = distiller
        if (
            importlib.util.find_spec("torch")
            and (config.teacher, config.student) == _IN_TORCH
        ):
            found |= in_torch(config, pair)
    return found


def in_torch(
    config: Config, pair: step_pairs.Pair
) -> dict[str, Callable[[], Callable[[], object]]]:
    """Returns the hand-written PyTorch contenders, in channels-last layout.

    PyTorch's convolutions are faster in it.
    """
    import torch

    from benchmarks.speed import torch_hybrid

    layout = torch.channels_last
    images = torch.from_numpy(pair.images).permute(0, 3, 1, 2)
    images = images.contiguous(memory_format=layout)
    labels = torch.from_numpy(pair.targets)

    def training(model, loss_of):
        step = torch_hybrid.training(model.to(memory_format=layout), loss_of)
        return lambda: step(images, labels).item()

    def hybrid():
        networks = torch_hybrid.ResNet50(), torch_hybrid.MobileNet()
        points = config.switch_points or torch_hybrid.STRIDES[:-1]
        return training(torch_hybrid.Hybrid(*networks, points), torch_hybrid.hybrid_loss)

    def plain():
        return training(torch_hybrid.MobileNet(), torch_hybrid.cross_entropy)

    return {TORCH_PLAIN: plain, TORCH_HYBRID: hybrid}


def step_times(config: Config) -> dict[str, list[float]]:
    """Returns the seconds per step of each contender in each round."""
    steps = {name: build() for name, build in contenders(config).items()}
    for step in [*steps.values()] * 2:
        step()
    seconds = {name: [] for name in steps}
    progress = keras.utils.Progbar(config.rounds, unit_name="round")
    for _ in range(config.rounds):
        for name, step in steps.items():
            count = 2 if name in _IN_TURN else 1
            started = time.perf_counter()
            for _ in range(count):
                step()
            seconds[name].append((time.perf_counter() - started) / count)
        progress.add(1)
    return seconds


def peak_memory(config: Config, name: str) -> int:
    """Returns the bytes that a contender's steps need beyond those of its process."""
    step = contenders(config)[name]()
    if tf.config.list_physical_devices("GPU"):
        before = tf.config.experimental.get_memory_info("GPU:0")["current"]
        step()
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] - before
    before = _resident("VmRSS")
    step()
    step()
    return _resident("VmHWM") - before


def _resident(field):
    """Returns resident bytes from Linux's /proc: VmRSS now, VmHWM at the peak."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field))
    return 1024 * int(line.split()[1])


def in_a_process_of_its_own(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a new process.

    The allocator keeps freed memory, so that only a new process shows a step's peak.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def report(
    config: Config, seconds: Mapping[str, Sequence[float]], memory: Mapping[str, int]
) -> str:
    """Returns the table, the yardstick and the other ratios as text."""
    devices = {device.device_type for device in tf.config.list_logical_devices()}
    packages = ["torch"] if TORCH_HYBRID in seconds else []
    lines = [
        f"{config.task}, {config.teacher} -> {config.student}, {config.image_size} "
        f"pixels high, batch {config.batch_size}, switch points "
        f"{config.switch_points or 'all'}, {config.rounds} rounds",
        f"{machine.describe(*packages)}, {', '.join(sorted(devices))}",
        "",
        f"{'':<24}{'s/step':>8}  {'(min - max)':<15}{'images/s':>9}"
        f"{'peak MiB' if memory else '':>10}",
    ]
    for name, times in seconds.items():
        middle = statistics.median(times)
        spread = f"({min(times):.2f} - {max(times):.2f})"
        peak = f"{memory[name] / 2**20:.0f}" if memory else ""
        lines.append(
            f"{name:<24}{middle:>8.3f}  {spread:<15}{config.batch_size / middle:>9.1f}"
            f"{peak:>10}"
        )
    parts = [2 * s + g for s, g in zip(seconds[PLAIN], seconds[GRADIENT])]
    lines += ["", ratio("yardstick, keras_hybrid", seconds[HYBRID], parts)]
    if NAIVE in seconds:
        lines.append(ratio("yardstick, naive hybrid", seconds[NAIVE], parts))
    for name, other in (
        (HYBRID, NAIVE),
        (ONE_PATH, HYBRID),
        (ONE_PATH, DISTILLER),
        (BFLOAT16, HYBRID),
        (ONE_PATH_BFLOAT16, ONE_PATH),
        (RECIPE, HYBRID),
        (RECIPE_ONE_PATH, RECIPE),
        (HYBRID, TORCH_HYBRID),
        (PLAIN, TORCH_PLAIN),
        (RECIPE_PLAIN, TORCH_PLAIN),
    ):
        if name in seconds and other in seconds:
            lines.append(ratio(f"{name} / {other}", seconds[name], seconds[other]))
    return "\n".join(lines)


def ratio(title: str, times: Sequence[float], others: Sequence[float]) -> str:
    """Returns a line with the median, over rounds, of the ratio within each round."""
    ratios = [a / b for a, b in zip(times, others)]
    spread = f"({min(ratios):.3f} - {max(ratios):.3f})"
    return f"{title:<32}{statistics.median(ratios):>7.3f}  {spread}"


def main(config: Config) -> None:
    seconds = step_times(config)
    memory = {
        name: in_a_process_of_its_own(peak_memory, config, name)
        for name in (seconds if config.memory else ())
    }
    print(report(config, seconds, memory))


if __name__ == "__main__":
    app.run(main, flags_parser=eapp.make_flags_parser(Config))
