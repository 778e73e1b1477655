"""What a hybrid training step costs, beside the steps it is made of.

    python benchmarks/step_time.py

ResNet-50 teaches MobileNet V1 at 224x224, batch 16, random weights and images. All
contenders take turns in one process, so that a slow minute of the machine hits them all,
and ratios are taken within a round; only peak memory is measured one by one. The
yardstick (at most 1.10) is

    hybrid step / (2 x student step + teacher forward with the gradient of its input)

since the hybrid paths together run each network once more. Output of the last run, with
its machine: step_time.txt beside this file.
"""

import dataclasses
import multiprocessing
import os
import platform
import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app
from etils import eapp

import keras_hybrid

PLAIN, FORWARD, GRADIENT = "plain student", "teacher forward", "teacher input gradient"
DISTILLER, NAIVE, HYBRID = "keras Distiller", "naive hybrid", "keras_hybrid"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings; the defaults are those of the yardstick."""

    teacher: str = "ResNet50"
    """Keras Applications network."""
    student: str = "MobileNet"
    """Keras Applications network."""
    switch_points: tuple[int, ...] = ()
    """Strides; by default all that both networks have."""
    image_size: int = 224
    """Pixels."""
    batch_size: int = 16
    """Images a step."""
    rounds: int = 12
    """How often each contender has its turn, after two turns to warm up."""


class NaiveHybrid(keras_hybrid.HybridTransfer):
    """The method as written down: three passes from image to loss under one tape."""

    def train_step(self, data):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            predictions = [path(x, training=True) for path in self.paths]
            l1, l2, l3 = (self._compile_loss(y, y_pred) for y_pred in predictions)
            loss = tf.stop_gradient(2 * l3 / (l1 + l2)) * (l1 + l2) + l3
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return {"loss": loss}


def contenders(config):
    """Name -> a function that builds a contender: a function that runs one step."""
    rng = np.random.default_rng(0)
    shape = (config.batch_size, config.image_size, config.image_size, 3)
    images = tf.constant(rng.uniform(0, 255, shape).astype("float32"))
    labels = tf.constant(rng.integers(0, 1000, config.batch_size))
    points = {"switch_points": config.switch_points or None}

    def load(name, classes=None):
        return keras_hybrid.applications.load(
            name, weights=None, input_shape=shape[1:], classes=classes
        )

    def forward():
        teacher = load(config.teacher)
        step = tf.function(lambda: teacher(images, training=False))
        return lambda: step().numpy()

    def gradient():
        teacher = load(config.teacher)

        @tf.function
        def step():
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(images)
                features = teacher(images, training=False)
            return tape.gradient(features, images)

        return lambda: step().numpy()

    def training(model):
        model.compile("sgd", loss="sparse_categorical_crossentropy")
        return lambda: model.train_on_batch(images, labels)

    def distiller():
        loss = keras.distillation.LogitsDistillation()
        teacher, student = load(config.teacher, 1000), load(config.student, 1000)
        return training(keras.distillation.Distiller(teacher, student, loss))

    def hybrid(method):
        student = load(config.student, 1000)
        return training(method(load(config.teacher), student, **points))

    return {
        PLAIN: lambda: training(load(config.student, 1000)),
        FORWARD: forward,
        GRADIENT: gradient,
        DISTILLER: distiller,
        NAIVE: lambda: hybrid(NaiveHybrid),
        HYBRID: lambda: hybrid(keras_hybrid.HybridTransfer),
    }


def step_times(config):
    """Name -> seconds a step, one for each round."""
    steps = {name: build() for name, build in contenders(config).items()}
    for step in [*steps.values()] * 2:
        step()
    seconds = {name: [] for name in steps}
    progress = keras.utils.Progbar(config.rounds, unit_name="round")
    for _ in range(config.rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)
        progress.add(1)
    return seconds


def peak_memory(config, name):
    """Bytes that steps of one contender take beyond what its process held before."""
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
    """Bytes by Linux's /proc: VmRSS now, VmHWM at the peak."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field))
    return 1024 * int(line.split()[1])


def in_a_process_of_its_own(function, *arguments):
    """The allocator keeps what it once got: only a new process shows a step's peak."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def report(config, seconds, memory):
    """The table and the yardstick as text."""
    devices = [d.device_type for d in tf.config.list_logical_devices()]
    lines = [
        f"{config.teacher} -> {config.student}, {config.image_size}x{config.image_size}, "
        f"batch {config.batch_size}, switch points {config.switch_points or 'all'}, "
        f"{config.rounds} rounds",
        f"{os.cpu_count()} cores ({platform.machine()}), {devices}, tensorflow "
        f"{tf.__version__}, keras {keras.__version__}",
        "",
        f"{'':<24}{'s/step':>8}  {'(min - max)':<15}{'images/s':>9}{'peak MiB':>10}",
    ]
    for name, times in seconds.items():
        middle = statistics.median(times)
        spread = f"({min(times):.2f} - {max(times):.2f})"
        lines.append(
            f"{name:<24}{middle:>8.3f}  {spread:<15}{config.batch_size / middle:>9.1f}"
            f"{memory[name] / 2**20:>10.0f}"
        )
    parts = [2 * s + g for s, g in zip(seconds[PLAIN], seconds[GRADIENT])]
    lines += [
        "",
        ratio("yardstick, keras_hybrid", seconds[HYBRID], parts),
        ratio("yardstick, naive hybrid", seconds[NAIVE], parts),
        ratio("keras_hybrid / naive hybrid", seconds[HYBRID], seconds[NAIVE]),
    ]
    return "\n".join(lines)


def ratio(title, times, others):
    """Median over the rounds of a ratio taken within each."""
    ratios = [a / b for a, b in zip(times, others)]
    spread = f"({min(ratios):.3f} - {max(ratios):.3f})"
    return f"{title:<28}{statistics.median(ratios):>7.3f}  {spread}"


def main(config):
    seconds = step_times(config)
    memory = {
        name: in_a_process_of_its_own(peak_memory, config, name) for name in seconds
    }
    print(report(config, seconds, memory))


if __name__ == "__main__":
    app.run(main, flags_parser=eapp.make_flags_parser(Config))
