"""Keras callbacks for the training of a pair."""

import csv
import os
import pathlib
import time

import keras

from keras_hybrid.hybrid.paths import PLAIN, STUDENT_FIRST, TEACHER_FIRST
from keras_hybrid.training.atomic_write import staged

_SECONDS_BETWEEN_DRAWINGS = 10  # A drawing takes a third of one.
# By the path, and of the student on validation data.
_STYLES = {
    PLAIN: {"color": "C0"},
    STUDENT_FIRST: {"color": "C1"},
    TEACHER_FIRST: {"color": "C2"},
    "validation": {"color": "C0", "linestyle": "--"},
}


class TransferCurves(keras.callbacks.Callback):
    """Writes the curves of a training as it goes on (paper, Fig. 5 to 8).

    After each epoch `directory` holds `metrics.csv`, a row an epoch with all that Keras
    logs and the seconds since the start, and a file of events for TensorBoard. Every ten
    seconds at most, and at the end, `curves.png` is drawn: the losses of the three paths,
    alpha and each metric (that of the hybrid paths too, given `track_paths=True`). A
    `fit` with an `initial_epoch` goes on with what is there. Any Keras model will do:
    what it does not log is not drawn.

    Example:

    >>> model.fit(train, epochs=90, callbacks=[TransferCurves("runs/first")])

    Args:
        directory: Created when missing. A `metrics.csv` in it is replaced, but for its
            rows before `initial_epoch`.
    """

    def __init__(self, directory):
        super().__init__()
        self._directory = pathlib.Path(directory)
        self._events = None

    def on_train_begin(self, logs=None):
        self._events = None

    def on_epoch_begin(self, epoch, logs=None):
        if self._events is None:
            self._begin(epoch)

    def _begin(self, epoch):
        self._directory.mkdir(parents=True, exist_ok=True)
        earlier = read_rows(self._directory / "metrics.csv")
        self._rows = [row for row in earlier if row["epoch"] < epoch]
        before = self._rows[-1]["seconds"] if self._rows else 0.0
        self._started = time.monotonic() - before
        self._events = _Events(self._directory, epoch)
        self._drawn = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        seconds = round(time.monotonic() - self._started, 3)
        values = {name: float(value) for name, value in (logs or {}).items()}
        self._rows.append({"epoch": epoch, "seconds": seconds, **values})
        _write_rows(self._directory / "metrics.csv", self._rows)
        self._events.write(epoch, values)
        if time.monotonic() - self._drawn >= _SECONDS_BETWEEN_DRAWINGS:
            self._draw()

    def on_train_end(self, logs=None):
        if self._events is not None:
            self._events.close()
            self._draw()

    def _draw(self):
        plot(self._rows, self._directory / "curves.png")
        self._drawn = time.monotonic()


def read_rows(path):
    """The rows of a `metrics.csv`, log name -> number; none where there is no file."""
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
    """All log names, in the order in which they first come."""
    return list(dict.fromkeys(name for row in rows for name in row))


class _Events:
    """A file of scalars as TensorBoard reads them, without TensorBoard.

    It tells TensorBoard to forget what an earlier process wrote for `first_epoch` and
    later ones.
    """

    def __init__(self, directory, first_epoch):
        import tensorflow as tf  # also where Keras runs on JAX or PyTorch

        self._event = tf.compat.v1.Event
        self._summary = tf.compat.v1.Summary
        name = f"events.out.tfevents.{time.time_ns()}"
        self._file = tf.io.TFRecordWriter(os.fspath(directory / name))
        self._write(file_version="brain.Event:2")
        start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        self._write(step=first_epoch, session_log=start)

    def write(self, epoch, values):
        scalars = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
        ]
        self._write(step=epoch, summary=self._summary(value=scalars))
        self._file.flush()

    def _write(self, **content):
        event = self._event(wall_time=time.time(), **content)
        self._file.write(event.SerializeToString())

    def close(self):
        self._file.close()


def plot(rows, path):
    """Draws the curves.

    Args:
        rows: Dicts with `"epoch"`, counted from 0, and what Keras logged.
        path: Of the PNG file.
    """
    from matplotlib.figure import Figure  # takes a while, and not everyone plots
    from matplotlib.ticker import MaxNLocator

    panels = _panels(_names(rows))
    figure = Figure((4.2 * len(panels), 3.4), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, curves) in zip(axes, panels.items()):
        for label, name in curves.items():
            points = [(row["epoch"] + 1, row[name]) for row in rows if name in row]
            axis.plot(*zip(*points), label=label, marker=".", **_STYLES[label])
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    axes[0].legend()
    with staged(path) as new:
        figure.savefig(new, format="png")


def _panels(names):
    """Title -> {label: log name} of what `names` has."""
    prefixes = "val_", STUDENT_FIRST, TEACHER_FIRST
    known = "epoch", "seconds", "loss", "student_loss", "balance"
    panels = {
        "loss": _curves("loss", "student_loss" if "balance" in names else "loss"),
        "alpha": {PLAIN: "balance"},
    }
    for name in names:
        if name not in known and not name.startswith(prefixes):
            panels[name] = _curves(name, name)
    for title, curves in panels.items():
        panels[title] = {label: name for label, name in curves.items() if name in names}
    return {title: curves for title, curves in panels.items() if curves}


def _curves(metric, plain):
    return {
        PLAIN: plain,
        STUDENT_FIRST: f"{STUDENT_FIRST}_{metric}",
        TEACHER_FIRST: f"{TEACHER_FIRST}_{metric}",
        "validation": f"val_{metric}",
    }
