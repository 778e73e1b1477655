"""Keras callbacks: one records training, one ends its hybrid part."""

import csv
import numbers
import os
import pathlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_hybrid.hybrid.paths import PLAIN, STUDENT_FIRST, TEACHER_FIRST
from keras_hybrid.hybrid.transfer import HybridTransfer
from keras_hybrid.training.atomic_write import staged

_SECONDS_BETWEEN_PLOTS = 10  # A plot takes a third of a second.
# The line of each path, and of the student on validation data.
_STYLES = {
    PLAIN: {"color": "C0"},
    STUDENT_FIRST: {"color": "C1"},
    TEACHER_FIRST: {"color": "C2"},
    "validation": {"color": "C0", "linestyle": "--"},
}
# A hybrid path, with the number of its teacher if there are several, in a log's name.
_PATH = re.compile(rf"({STUDENT_FIRST}|{TEACHER_FIRST})(_\d+)?_(.+)")
_LINES_OF_TEACHERS = "-", ":", "-.", "--"


class HybridEpochs(keras.callbacks.Callback):
    """Trains the student of a `HybridTransfer` alone after the first epochs of a `fit`.

    From then on a step costs what one of the student costs: the hybrid paths are not
    computed, and their logs end, so that their lists in the history are shorter. What
    the optimizer knows of the student's weights is kept.

    Example:

    >>> model.fit(train, epochs=90, callbacks=[HybridEpochs(60)])

    Args:
        epochs: Number of epochs with hybrid paths, counted from the first epoch of the
            training, also where a `fit` has an `initial_epoch`.

    Raises:
        ValueError: `epochs` is no integer of at least 0.
        TypeError: In `fit`, if the model is no `HybridTransfer`.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__()
        if not isinstance(epochs, numbers.Integral) or epochs < 0:
            raise ValueError(
                f"`epochs` must be an integer of at least 0. Received: epochs={epochs!r}"
            )
        self.epochs = epochs

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        if not isinstance(self.model, HybridTransfer):
            raise TypeError(
                f"`HybridEpochs` is for a HybridTransfer. Received: model={self.model!r}"
            )

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.model.hybrid = epoch < self.epochs


class TransferCurves(keras.callbacks.Callback):
    """Writes training curves during `fit` (paper, Fig. 5 to 8).

    After each epoch, `directory` holds `metrics.csv`, with one row per epoch of all that
    Keras logs and the seconds since the start, and an event file for TensorBoard. Every
    ten seconds at most, and at the end, the curves are plotted to `curves.png`: the
    losses of the three paths, alpha and each metric (with `track_paths=True` those of the
    hybrid paths, too). A `fit` with an `initial_epoch` continues the files of an earlier
    one. Any Keras model can be used: what it does not log is not plotted.

    Example:

    >>> model.fit(train, epochs=90, callbacks=[TransferCurves("runs/first")])

    Args:
        directory: Path of the directory, which is created if missing. An existing
            `metrics.csv` in it is replaced, except for its rows before `initial_epoch`.
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        super().__init__()
        self._directory = pathlib.Path(directory)
        self._events: Any = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._events = None

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._events is None:
            self._begin(epoch)

    def _begin(self, epoch):
        self._directory.mkdir(parents=True, exist_ok=True)
        earlier = read_rows(self._directory / "metrics.csv")
        self._rows = [row for row in earlier if row["epoch"] < epoch]
        before = self._rows[-1]["seconds"] if self._rows else 0.0
        self._started = time.monotonic() - before
        self._events = _Events(self._directory, epoch)
        self._plotted = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        seconds = round(time.monotonic() - self._started, 3)
        # A metric may have a value for each class.
        values = {k: float(v) for k, v in (logs or {}).items() if np.ndim(v) == 0}
        self._rows.append({"epoch": epoch, "seconds": seconds, **values})
        _write_rows(self._directory / "metrics.csv", self._rows)
        self._events.write(epoch, values)
        if time.monotonic() - self._plotted >= _SECONDS_BETWEEN_PLOTS:
            self._plot()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        if self._events is not None:
            self._events.close()
            self._plot()

    def _plot(self):
        plot(self._rows, self._directory / "curves.png")
        self._plotted = time.monotonic()


def read_rows(path: str | os.PathLike) -> list[dict[str, float]]:
    """Reads the rows of a `metrics.csv`, log name -> number; none without a file."""
    if not os.path.exists(path):
        return []
    with open(path, newline="") as file:
        return [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]


def _write_rows(path, rows):
    with staged(path) as new, open(new, "w", newline="") as file:
        writer = csv.DictWriter(file, _names(rows))
        writer.writeheader()
        writer.writerows({**row, "epoch": int(row["epoch"])} for row in rows)


def _names(rows):
    """All log names, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


class _Events:
    """An event file of scalars for TensorBoard, written without TensorBoard.

    It makes TensorBoard discard what an earlier process wrote for `first_epoch` and later
    epochs.
    """

    def __init__(self, directory: pathlib.Path, first_epoch: int) -> None:
        import tensorflow as tf  # also where Keras runs on JAX or PyTorch

        self._event = tf.compat.v1.Event
        self._summary = tf.compat.v1.Summary
        name = f"events.out.tfevents.{time.time_ns()}"
        self._file = tf.io.TFRecordWriter(os.fspath(directory / name))
        self._write(file_version="brain.Event:2")
        start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        self._write(step=first_epoch, session_log=start)

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        scalars = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
        ]
        self._write(step=epoch, summary=self._summary(value=scalars))
        self._file.flush()

    def _write(self, **content):
        event = self._event(wall_time=time.time(), **content)
        self._file.write(event.SerializeToString())

    def close(self) -> None:
        self._file.close()


def plot(rows: Sequence[Mapping[str, float]], path: str | os.PathLike) -> None:
    """Plots the curves to a PNG file.

    Args:
        rows: Dicts with `"epoch"`, counted from 0, and what Keras logged.
        path: Path of the PNG file.
    """
    from matplotlib.figure import Figure  # slow to import, and often not needed
    from matplotlib.ticker import MaxNLocator

    panels = _panels(_names(rows))
    figure = Figure((4.2 * len(panels), 3.4), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, curves) in zip(axes, panels.items()):
        for label, name in curves.items():
            points = [(row["epoch"] + 1, row[name]) for row in rows if name in row]
            axis.plot(*zip(*points), label=label, marker=".", **_style(label))
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    axes[0].legend()
    with staged(path) as new:
        figure.savefig(new, format="png")


def _style(label):
    path, _, number = label.rpartition("_")
    if not number.isdecimal():
        return _STYLES[label]
    line = _LINES_OF_TEACHERS[(int(number) - 1) % len(_LINES_OF_TEACHERS)]
    return {**_STYLES[path], "linestyle": line}


def _panels(names):
    """Title -> {label: log name}, for the log names in `names`."""
    known = "epoch", "seconds", "loss", "student_loss", "balance"
    titles = {
        "loss": "student_loss" if "student_loss" in names else "loss",
        "alpha": "balance",
    }
    for name in names:
        if not (name in known or name.startswith("val_") or _PATH.fullmatch(name)):
            titles[name] = name
    of_paths = [match for name in names if (match := _PATH.fullmatch(name))]
    panels = {}
    for title, plain in titles.items():
        curves = {PLAIN: plain}
        for match in of_paths:
            if match[3] == title:
                curves[match[1] + (match[2] or "")] = match[0]
        curves["validation"] = f"val_{title}"
        panels[title] = {label: name for label, name in curves.items() if name in names}
    return {title: curves for title, curves in panels.items() if curves}
