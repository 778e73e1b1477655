"""What a training step of each row of a table costs: FLOPs and seconds.

    python -m benchmarks.study.cost TABLE ... --materials=DIR --work=DIR

All rows of a table take turns in one process, on the first batch of the table's data, so
that a slow minute of the machine affects all of them; the time of a row is the median of
`--rounds`. FLOPs are those of convolutions and matrix products, of the networks and of
their gradients; a multiplication and an addition count as two. Lines are appended to
benchmarks/study/costs.jsonl, from which `report` makes its table.
"""

import keras_hybrid  # noqa: F401  before TensorFlow: oneDNN is on

# isort: split
import dataclasses
import importlib
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from benchmarks.study import materials, plan, run
from benchmarks.study.tables import TABLES
from keras_hybrid.recipes.engine import devices

_PRODUCTS = "MatMul", "BatchMatMulV2"
_COUNTED = {
    *_PRODUCTS,
    *(
        f"{convolution}{gradient}"
        for convolution in ("Conv2D", "DepthwiseConv2dNative")
        for gradient in ("", "BackpropInput", "BackpropFilter")
    ),
}


def main() -> None:
    parser = run.parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    materials.prepare(options.materials.resolve(), options.work)
    os.chdir(options.work)
    for name in options.tables:
        for content in costs(TABLES[name], options.rounds):
            run.append(plan.COSTS, content)
            print(content, flush=True)


def costs(table: plan.Table, rounds: int) -> list[dict[str, Any]]:
    """Measures the rows of a table in turns; returns the contents of their lines."""
    steps, seconds, operations = {}, {}, {}
    for row in distinct(table):
        model, batch, steps[row] = step_of(table, row)
        operations[row], seconds[row] = flops(model, batch), []
    for i in range(rounds + 1):
        for row, step in steps.items():
            start = time.perf_counter()
            for _ in range(2):  # rows with one path a step take both in turn
                step()
            if i:  # the first round traces the graphs
                seconds[row].append((time.perf_counter() - start) / 2)
    return [
        {
            "row": row,
            "table": table.name,
            "batch_size": table.settings["batch_size"],
            "flops": operations[row],
            "seconds": statistics.median(seconds[row]),
            "machine": run.machine(),
        }
        for row in steps
    ]


def distinct(table: plan.Table) -> list[str]:
    """Returns the rows to measure, of those whose steps do the same the shortest name.

    Of the study's ablations, those that no recipe has are left out.
    """
    others = "method_weight", "plus_weight", "balance", "learning_rate", "weight_decay"
    lengths = "epochs", "steps", "hybrid_epochs", "data_dir"
    found: dict[str, list[str]] = {}
    for row, spec in table.rows().items():
        if dataclasses.replace(spec, seeds=plan.SEEDS) == plan.Row(spec.settings):
            ignored = others + lengths
            work = {k: v for k, v in spec.settings.items() if k not in ignored}
            found.setdefault(repr(sorted(work.items())), []).append(row)
    return [min(rows, key=len) for rows in found.values()]


def step_of(
    table: plan.Table, row: str
) -> tuple[keras.Model, Sequence[Any], Callable[[], Any]]:
    """Returns the model of a row, a batch, and a function that takes a training step."""
    spec = table.rows()[row]
    recipe = importlib.import_module(f"keras_hybrid.recipes.{table.recipe}").RECIPE
    with tempfile.TemporaryDirectory() as directory:
        config = run.config_of(table, spec, 0, directory)
        data, model, _ = recipe.prepare(config)
    batch = next(iter(recipe.training_batches(config, data, range(1))))

    def step():
        with devices.settings_of(config):
            return model.train_on_batch(*batch)

    return model, batch, step


def flops(model: keras.Model, batch: Sequence[Any]) -> float:
    """Returns the FLOPs of a training step on a batch."""
    model.optimizer.build(model.trainable_variables)
    step = tf.function(lambda *batch: model.train_step(batch))
    return _of_graph(step.get_concrete_function(*batch).graph)


def _of_graph(graph):
    """The FLOPs of a function, without the ops that no result needs."""
    todo = [*(x.op for x in graph.outputs), *graph.control_outputs]
    total, seen = 0.0, set()
    while todo:
        op = todo.pop()
        if op in seen:
            continue
        seen.add(op)
        todo += [*(x.op for x in op.inputs), *op.control_inputs]
        if op.type in ("If", "StatelessIf"):  # paths that are taken in turn
            names = [op.get_attr(f"{which}_branch").name for which in ("then", "else")]
            branches = [graph._get_function(name).graph for name in names]
            total += statistics.mean(map(_of_graph, branches))
        elif op.type in _COUNTED:
            total += _of_op(op)
    return total


def _of_op(op):
    inputs, outputs = ([tuple(x.shape) for x in xs] for xs in (op.inputs, op.outputs))
    if op.type in _PRODUCTS:
        inner = math.prod(inputs[0]) // math.prod(outputs[0][:-1])
        return 2 * math.prod(outputs[0]) * inner
    # A position of the convolution's result takes each weight of the kernel once.
    result = inputs[2] if "Backprop" in op.type else outputs[0]
    kernel = outputs[0] if op.type.endswith("BackpropFilter") else inputs[1]
    return 2 * math.prod(result[:-1]) * math.prod(kernel)


if __name__ == "__main__":
    main()
