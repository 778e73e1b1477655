"""Hybrid training steps on a GPU: this package on JAX, and hand-written PyTorch.

    python -m benchmarks.speed.gpu_step --json=gpu_step.jsonl

ResNet-50 teaches MobileNet V1 at 224x224 with batch size 256, in bfloat16 (mixed
precision) and in float32 (convolutions in TF32, the default of both libraries). The step
of the plain student and the forward pass of the teacher are timed, too. PyTorch runs
torch_hybrid.py with `torch.compile`, in channels-last layout. Needs JAX, Keras and
PyTorch, but not TensorFlow.

Each library has its own process for each dtype, which starts with the row that takes the
least memory and ends with the one that takes the most, so that each row sets its own
peak. FLOPs are those of convolutions and dense layers: once for the forward pass, and
once more for each gradient, with respect to the inputs and, where they are trained, to
the weights. What two paths share counts twice. "of the roof" is the share of the card's
peak FLOP/s in bfloat16. Rows are printed, and added to the file, as soon as they are
measured.
"""

import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

if typing.TYPE_CHECKING:
    import keras

    from keras_hybrid.hybrid.graph import Step
    from keras_hybrid.hybrid.paths import Path

# What `python` runs in the process of a library and a dtype.
PROGRAM = "-m", "benchmarks.speed.gpu_step"
FORWARD, PLAIN, HYBRID = "teacher forward", "plain student", "hybrid"
KERAS, TORCH = "keras_hybrid", "PyTorch"
CLASSES = 1000
# Dense bfloat16 FLOP/s from NVIDIA's data sheets. The first name that matches counts.
_ROOFS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}


def main() -> None:
    options = parse()
    if options.here:
        rows = {KERAS: keras_rows, TORCH: torch_rows}[options.libraries[0]]
        for row in rows(options, options.dtypes[0]):
            print(json.dumps(row), flush=True)
        return
    end = time.monotonic() + 60 * options.minutes
    print(f"{'':<41}{'ms':>7}{'images/s':>10}{'peak GiB':>10}{'of the roof':>13}")
    found = []
    for dtype in options.dtypes:
        for library in options.libraries:
            for row in in_a_process(library, dtype, end - time.monotonic()):
                found.append(row)
                print(line(row), flush=True)
                if options.json:
                    with options.json.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    print_ratios(found)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20, help="steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--libraries", nargs="+", default=[KERAS, TORCH])
    parser.add_argument(
        "--minutes",
        type=float,
        default=8,
        help="time limit, after which rows are left out",
    )
    parser.add_argument("--json", type=pathlib.Path, help="file to add the rows to")
    parser.add_argument(
        "--here", action="store_true", help="one library and dtype, in this process"
    )
    return parser.parse_args(arguments)


def in_a_process(library: str, dtype: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Yields the rows of a library as soon as its process has measured them."""
    command = [sys.executable, *PROGRAM, *sys.argv[1:]]
    command += ["--libraries", library, "--dtypes", dtype, "--here"]
    environment = {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9",  # nothing else runs on the card
        **os.environ,
        "KERAS_BACKEND": "jax",
    }
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        timer = threading.Timer(max(seconds, 0), process.kill)
        timer.start()
        yield from map(json.loads, process.stdout)
        timer.cancel()
    if process.returncode:
        print(f"{library}, {dtype}: ended with {process.returncode}", flush=True)


def line(row: dict[str, Any]) -> str:
    """Returns a row as a line of the table."""
    name = f"{row['library']}, {row['dtype']}, {row['row']}"
    peak, share = row["peak_bytes"], row["share_of_roof"]
    return (
        f"{name:<41}{row['milliseconds']:>7.1f}{row['images_per_second']:>10.0f}"
        f"{'unknown' if peak is None else f'{peak / 2**30:.1f}':>10}"
        f"{'unknown' if share is None else f'{share:.1%}':>13}"
    )


def print_ratios(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the ratios of both libraries' times, the card and the versions."""
    times = {(r["library"], r["dtype"], r["row"]): r["milliseconds"] for r in rows}
    for (library, *rest), milliseconds in times.items():
        other = times.get((TORCH, *rest))
        if library == KERAS and other:
            ratio = milliseconds / other
            print(f"{KERAS} / {TORCH}, {', '.join(rest)}: {ratio:.3f}")
    if rows:
        print(
            f"On {rows[-1]['card']}; {', '.join(sorted({r['versions'] for r in rows}))}"
        )


def measured(options: argparse.Namespace, run: Callable[[int], object]) -> float:
    """Returns milliseconds per step; `run(n)` runs n steps and waits for the last one."""
    run(2)  # the second one compiles again if the first one has changed a layout
    times = []
    for _ in range(options.rounds):
        started = time.perf_counter()
        run(options.steps)
        times.append(1000 * (time.perf_counter() - started) / options.steps)
    return statistics.median(times)


def row(
    options: argparse.Namespace, flops: float, milliseconds: float, **others: Any
) -> dict[str, Any]:
    """Returns the content of a line.

    Args:
        options: Options of the command line.
        flops: FLOPs of a step per image.
        milliseconds: Milliseconds per step.
        **others: Other entries, including `card`, the name of the GPU.
    """
    images = 1000 * options.batch_size / milliseconds
    roofs = [roof for name, roof in _ROOFS.items() if name in others["card"]]
    return {
        **others,
        "image_size": options.image_size,
        "batch_size": options.batch_size,
        "milliseconds": milliseconds,
        "images_per_second": images,
        "flops_per_image": flops,
        "share_of_roof": images * flops / roofs[0] if roofs else None,
    }


def keras_rows(options: argparse.Namespace, dtype: str) -> Iterator[dict[str, Any]]:
    """Measures and yields the rows of this package."""
    try:
        import jax
        import keras

        import keras_hybrid
    except ImportError as error:
        sys.exit(f"{KERAS} needs JAX and Keras: {error}")
    keras.config.set_dtype_policy("float32" if dtype == "float32" else f"mixed_{dtype}")
    device = jax.devices()[0]
    images, labels = map(jax.device_put, batch(options))
    teacher, student = networks(options.image_size)
    hybrid = keras_hybrid.HybridTransfer(teacher, student)
    _, teacher_first, plain = hybrid.paths
    whole = teacher_first.segments[0].network.graph.steps

    def training(model):
        model.compile("sgd", loss="sparse_categorical_crossentropy")

        def batches():
            while True:
                yield images, labels

        return lambda n: model.fit(batches(), steps_per_epoch=n, shuffle=False, verbose=0)

    def forward():
        weights = [weight.value for weight in teacher.weights]
        step = jax.jit(
            lambda weights, x: teacher.stateless_call([], weights, x, training=False)[0]
        )

        def run(n):
            for _ in range(n):
                y = step(weights, images)
            y.block_until_ready()

        return run

    for name, build, flops in (
        (FORWARD, forward, forward_flops(whole)),
        (PLAIN, lambda: training(student), path_flops(plain, options.image_size)),
        (
            HYBRID,
            lambda: training(hybrid),
            sum(path_flops(path, options.image_size) for path in hybrid.paths),
        ),
    ):
        milliseconds = measured(options, build())
        memory = device.memory_stats() or {}
        yield row(
            options,
            flops,
            milliseconds,
            library=KERAS,
            dtype=dtype,
            row=name,
            card=device.device_kind,
            peak_bytes=memory.get("peak_bytes_in_use"),
            versions=f"jax {jax.__version__}, keras {keras.__version__}",
        )


def networks(size: int) -> tuple["keras.Model", "keras.Model"]:
    """Returns ResNet-50 without a top and MobileNet V1, as the recipes build them."""
    from keras_hybrid import applications

    shape = (size, size, 3)
    teacher = applications.load("ResNet50", weights=None, input_shape=shape)
    student = applications.load(
        "MobileNet", weights=None, input_shape=shape, classes=CLASSES
    )
    return teacher, student


def batch(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Returns noise as images (B, H, W, 3), and random labels (B,)."""
    rng = np.random.default_rng(0)
    shape = (options.batch_size, options.image_size, options.image_size, 3)
    images = rng.integers(0, 256, shape).astype("float32")
    return images, rng.integers(0, CLASSES, options.batch_size)


def path_flops(path: "Path", size: int) -> int:
    """Returns the FLOPs of a training step on a path for an image (size, size, 3)."""
    total = 3 * forward_flops(path.head.graph.steps[path.head.joint.position :])
    for segment in path.segments:
        steps = segment.network.graph.steps[segment.start.position : segment.end.position]
        total += (2 if segment.owner == "teacher" else 3) * forward_flops(steps)
        if segment.adapter:
            kernel = segment.adapter.convolution.kernel.shape
            positions = math.prod(segment.end.size((size, size)))
            total += 3 * 2 * positions * math.prod(kernel)
    return total


def forward_flops(steps: Iterable["Step"]) -> int:
    """Returns the FLOPs of some steps of a network's graph for one image.

    A multiplication and an addition count as two.
    """
    return sum(
        2 * math.prod(step.specs[0].shape[1:-1]) * math.prod(step.operation.kernel.shape)
        for step in steps
        if hasattr(step.operation, "kernel")
    )


def torch_rows(options: argparse.Namespace, dtype: str) -> Iterator[dict[str, Any]]:
    """Measures and yields the rows of PyTorch.

    On a CPU, only the front end of the compiler runs.
    """
    try:
        import torch

        from benchmarks.speed import torch_hybrid
    except ImportError as error:
        sys.exit(f"{TORCH} must be installed: {error}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    layout = torch.channels_last
    images, labels = map(torch.from_numpy, batch(options))
    images = images.permute(0, 3, 1, 2).to(device, memory_format=layout)
    labels = labels.to(device)
    autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

    def compiled(function):
        backend = "inductor" if device == "cuda" else "eager"
        return autocast(torch.compile(function, backend=backend))

    def repeated(step):
        def run(n):
            for _ in range(n):
                y = step(images, labels)
            y.sum().item()  # waits for the GPU

        return run

    teacher, student = torch_hybrid.ResNet50(), torch_hybrid.MobileNet()
    hybrid = torch_hybrid.Hybrid(teacher, student).to(device, memory_format=layout)
    seen = torch.no_grad()(compiled(lambda x, _: teacher(x)))
    for name, step, flops in (
        (FORWARD, seen, torch_hybrid.forward_flops(teacher, images)),
        (
            PLAIN,
            torch_hybrid.training(student, torch_hybrid.cross_entropy, compiled),
            torch_hybrid.training_flops(student, images),
        ),
        (
            HYBRID,
            torch_hybrid.training(hybrid, torch_hybrid.hybrid_loss, compiled),
            torch_hybrid.training_flops(hybrid, images),
        ),
    ):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        milliseconds = measured(options, repeated(step))
        yield row(
            options,
            flops,
            milliseconds,
            library=TORCH,
            dtype=dtype,
            row=name,
            card=torch.cuda.get_device_name() if device == "cuda" else "cpu",
            peak_bytes=torch.cuda.max_memory_allocated() if device == "cuda" else None,
            versions=f"torch {torch.__version__}",
        )


if __name__ == "__main__":
    main()
