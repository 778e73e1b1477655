"""Tables and plots of the pages in `PAGES`, from benchmarks/study/*.jsonl alone.

    python -m benchmarks.study.report

It replaces the text between `<!-- NAME -->` and `<!-- end -->` on a page by what
`BLOCKS[NAME]` returns, and keeps all other text.
"""

import functools
import math
import pathlib
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.study import gains, plan, plots
from benchmarks.study.plan import NONE, OURS
from benchmarks.study.tables import TABLES

DOCS = pathlib.Path(__file__).parents[2] / "docs"
PAGES = DOCS / "results.md", DOCS / "which_method.md"


def main() -> None:
    for page in PAGES:
        page.write_text(rendered(page.read_text()))
    for name, draw in plots.PICTURES.items():
        draw(DOCS / f"{name}.png")


def rendered(page: str) -> str:
    """Returns `page` with its blocks made from the current lines."""

    def block(match):
        name = match[1]
        return f"<!-- {name} -->\n{BLOCKS[name]()}\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", block, page, flags=re.S)


def table(
    name: str,
    control: str = NONE,
    rows: Sequence[str] | None = None,
    figure: Callable[[dict[str, Any]], float] | None = None,
    also: str | None = None,
) -> str:
    """Returns a table with a row per method: its figures, and its gain over `control`.

    Args:
        name: Name of the table.
        control: Row that the others are compared with, seed by seed.
        rows: Rows to show, or None for all.
        figure: Function from results to the figure, or None for the table's own.
        also: Name of a table of the same rows, whose figures follow after a slash.
    """
    spec = TABLES[name]
    figure = figure or spec.result
    tables = [part for part in (name, also) if part]
    parts = [plan.read(part) for part in tables]
    lines = [
        f"| | at seed 0, 1, ... | mean | s.d. | better than `{control}` by | s/epoch |",
        "|---" * 6 + "|",
    ]
    planned = spec.rows()
    for row in rows or planned:
        if row not in planned:
            continue
        seeds = [sorted(seed for name, seed in runs if name == row) for runs in parts]
        values = [
            [figure(runs[row, seed]["results"]) for seed in of_part]
            for runs, of_part in zip(parts, seeds)
        ]
        cells = [" / ".join(" ".join(f"{v:.2f}" for v in part) for part in values)]
        cells += _mean_and_deviation(sum(values, []))
        gained = "" if row == control else _gain(tables, row, control, figure)
        cells += [gained, _seconds(name, row) if values[0] else ""]
        lines.append(f"| {_label(row, parts)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _label(row, parts):
    lines = (run for runs in parts for run in runs.values() if run["row"] == row)
    weight = next((run["config"].get("method_weight") for run in lines), None)
    return row if weight is None else f"{row}, weight {weight:g}"


def _mean_and_deviation(values):
    if len(values) < 2:
        return ["", ""]
    return [f"{statistics.mean(values):.2f}", f"{statistics.stdev(values):.2f}"]


def _gain(tables, row, control=NONE, figure=None):
    """Formats the mean of paired differences and its 95 % confidence interval."""
    found = gains.interval(gains.gains(tables, row, control, figure))
    return "" if found is None else f"{found[0]:+.2f} ± {found[1]:.2f}"


def _seconds(name, row):
    seconds = plan.epoch_seconds(name, row)
    if math.isnan(seconds):
        return ""
    return f"{seconds:.0f}" if seconds >= 2 else f"{seconds:.1f}"


def weights(name: str, tuned: str = "weight") -> str:
    """Returns a table with a row per method: its validation figure at each value.

    Args:
        name: Name of the table.
        tuned: What is tuned.
    """
    spec, runs, tried = TABLES[name], plan.read(name), {}
    for row in spec.rows():
        method, _, value = row.rpartition(" ")
        run = runs.get((row, 0))
        figure = f"{spec.result(run['results']):.2f}" if run else "not run"
        tried.setdefault(method, []).append(f"{value}: {figure}")
    lines = [f"| | {tuned}: figure | chosen |", "|---|---|---|"]
    for method, figures in tried.items():
        best = plan.best_value(spec, method)
        chosen = "" if best is None else f"{best:g}"
        lines.append(f"| {method} | {', '.join(figures)} | {chosen} |")
    return "\n".join(lines)


def reasonable(results: Mapping[str, Any]) -> float:
    """Returns MR^-2 on the reasonable subset."""
    return results["miss_rate"]["reasonable"]


def situations() -> str:
    """Returns a table with a row per situation and method: its gain and its cost."""
    lines = [
        "| you have | method | better than the student alone by | seeds | its time |",
        "|---" * 5 + "|",
    ]
    for situation in gains.SITUATIONS:
        title = situation.title
        for method, row in situation.rows.items():
            gained = _gain(situation.tables, row)
            if gained:
                cost = gains.cost(situation.tables, row)
                times = "" if math.isnan(cost) else f"{cost:.1f} times"
                seeds = len(gains.gains(situation.tables, row))
                lines.append(f"| {title} | {method} | {gained} | {seeds} | {times} |")
                title = ""
    return "\n".join(lines)


def costs() -> str:
    """Returns a table of what a training step of each row costs."""
    lines = [
        "| table | | GFLOPs an image | images/s | times the student alone |",
        "|---" * 5 + "|",
    ]
    of_tables = {}
    for cost in plan.lines(plan.COSTS):  # of one row, the last line counts
        of_tables.setdefault(cost["table"], {})[cost["row"]] = cost
    for table, of_rows in of_tables.items():
        for row, cost in of_rows.items():
            images = cost["batch_size"] / cost["seconds"]
            flops = cost["flops"] / cost["batch_size"] / 1e9
            times = cost["seconds"] / of_rows[NONE]["seconds"]
            lines.append(
                f"| {table} | {row} | {flops:.2f} | {images:.1f} | {times:.1f} |"
            )
            table = ""
    measured = [cost for of_rows in of_tables.values() for cost in of_rows.values()]
    machines = dict.fromkeys(
        f"{m['processor']}, cores used: {m['cores']}, TensorFlow {m['tensorflow']}"
        for m in (cost["machine"] for cost in measured)
    )
    return "\n".join([*lines, "", f"Measured on {'; '.join(machines)}."])


def machines() -> str:
    """Returns a list of the processors and versions of all runs."""
    kinds = {}
    for name in TABLES:
        for run in plan.read(name).values():
            m = run["machine"]
            backend = f"JAX {m['jax']}" if "jax" in m else f"TensorFlow {m['tensorflow']}"
            kind = f"{m['processor']}, {backend}, Keras {m['keras']}"
            kinds[kind] = kinds.get(kind, 0) + 1
    return "\n".join(f"- {count} runs: {kind}" for kind, count in kinds.items())


def teacher(name: str) -> str:
    """Returns a sentence with the accuracy of each teacher."""
    runs = plan.read(name)
    return "\n".join(
        f"The {'teacher' if len(runs) == 1 else row}'s own top-1 is "
        f"{run['results']['top1']:.2f} % of the test images."
        for (row, _), run in runs.items()
    )


_MAIN = (
    *(NONE, "kd", "fitnet", "at", "ft", "ab", "overhaul", "ours, plain sum", OURS),
    *("none, rate times 3", "none, rate / 3", "none, as many seconds", "ours, loss / 3"),
)
_BALANCES = "ours, alpha 0.1", "ours, alpha 0.3", "ours, plain sum", "ours, alpha 3", OURS
_ABLATIONS = (
    *(OURS, "ours, adapters with batch norm", "ours, adapters' rate times 10"),
    *("ours, batch norm of all paths", "ours, two switches"),
)
_TEACHERS = NONE, "ours, teacher at random", "ours, teacher of ImageNet", OURS
_FEW = (
    *("none, 500 images", "ours, 500 images", "ours, 500 images, two switches"),
    "ours, 500 images, adapters' rate times 10",
    *("none, 500 images, 3 epochs", "ours, 500 images, 3 epochs"),
)
BLOCKS = {
    "cifar10_teacher": functools.partial(teacher, "cifar10_teacher"),
    "cifar10_gpu_teacher": functools.partial(teacher, "cifar10_gpu_teacher"),
    "cifar10_weights": functools.partial(weights, "cifar10_weights"),
    "cifar10": functools.partial(table, "cifar10", rows=_MAIN),
    "cifar10_balances": functools.partial(table, "cifar10", rows=_BALANCES),
    "cifar10_ablations": functools.partial(
        table, "cifar10", rows=_ABLATIONS, control=OURS
    ),
    "cifar10_teachers": functools.partial(table, "cifar10", rows=_TEACHERS),
    "cifar10_gpu": functools.partial(table, "cifar10_gpu"),
    "cifar10_few": functools.partial(table, "cifar10", rows=_FEW, control=_FEW[0]),
    "cifar10_long_rates": functools.partial(
        weights, "cifar10_long_rates", tuned="learning rate"
    ),
    "cifar10_long_weights": functools.partial(weights, "cifar10_long_weights"),
    "cifar10_long": functools.partial(table, "cifar10_long"),
    "transformers_teacher": functools.partial(teacher, "transformers_teacher"),
    "transformers": functools.partial(table, "transformers"),
    "caltech101_several": functools.partial(table, "caltech101_several"),
    "caltech101_pretrained_rates": functools.partial(
        weights, "caltech101_pretrained_rates", tuned="learning rate"
    ),
    "caltech101_pretrained": functools.partial(table, "caltech101_pretrained"),
    "camvid_weights": functools.partial(weights, "camvid_weights"),
    "camvid": functools.partial(table, "camvid", also="camvid_gpu"),
    "people_weights": functools.partial(weights, "people_weights"),
    "people": functools.partial(table, "people", also="people_gpu"),
    "people_reasonable": functools.partial(
        table, "people", figure=reasonable, also="people_gpu"
    ),
    "people_several": functools.partial(table, "people_several"),
    "situations": situations,
    "costs": costs,
    "machines": machines,
}


if __name__ == "__main__":
    main()
