"""Pictures of predictions, and plots of results."""

import pathlib
import typing
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from keras_hybrid.data.segmentation.dataset import IGNORED
from keras_hybrid.metrics import MissRateCurve
from keras_hybrid.training.atomic_write import staged

if typing.TYPE_CHECKING:
    from keras_hybrid.data.detection import DetectionDataset

_ROWS = 4
_SHOWN_SCORE = 0.5


def draw_label_maps(
    path: pathlib.Path,
    predict: Callable[[tf.Tensor], np.ndarray],
    batches: tf.data.Dataset,
    count: int,
    class_names: Sequence[str],
) -> None:
    """Writes a PNG of test images with the ground truth and the student's predictions.

    Args:
        path: Path of the PNG file.
        predict: Function from images (1, H, W, 3) to label maps (1, H, W).
        batches: Batches of images (1, H, W, 3) and label maps (1, H, W).
        count: Number of batches; four evenly spaced ones are shown.
        class_names: Names of the labels 0, 1 and so on.
    """
    colours = class_colours(len(class_names))
    figure = Figure(figsize=(12, 2.4 * _ROWS), layout="constrained")
    rows = figure.subplots(_ROWS, 3, squeeze=False)
    for axis in rows.flat:
        axis.set_axis_off()
    chosen = batches.shard(max(1, count // _ROWS), 0)
    for row, (images, labels) in zip(rows, chosen):
        for axis, picture in zip(
            row,
            (
                images[0].numpy().astype("uint8"),
                colours[labels[0].numpy()],
                colours[predict(images)[0]],
            ),
        ):
            axis.imshow(picture)
    for axis, title in zip(rows[0], ("image", "truth", "prediction")):
        axis.set_title(title)
    patches = [
        Patch(color=colour / 255, label=name)
        for name, colour in zip(class_names, colours)
    ]
    legend = figure.legend(
        handles=patches, loc="outside lower center", ncols=7, fontsize=8
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name with dollar signs is not a formula
    with staged(path) as new:
        figure.savefig(new, format="png", dpi=100)


def draw_people(
    path: pathlib.Path,
    batches: tf.data.Dataset,
    data: "DetectionDataset",
    detections: Sequence[Mapping[str, typing.Any]],
) -> None:
    """Writes a PNG of test images with the annotated people and the detections.

    Args:
        path: Path of the PNG file.
        batches: Batches of images (1, H, W, 3) with `"index"` and `"scale"`, see
            `data.detection.DetectionSource`.
        data: The `DetectionDataset`.
        detections: COCO-style detections in the test images, in pixels of the original
            images.
    """
    figure = Figure(figsize=(12, 3.2 * _ROWS), layout="constrained")
    rows = figure.subplots(_ROWS, 2, squeeze=False)
    for axis in rows.flat:
        axis.set_axis_off()
    for row, (images, truth) in zip(
        rows, batches.shard(max(1, len(data.test) // _ROWS), 0)
    ):
        index, scale = int(truth["index"][0]), np.tile(truth["scale"][0], 2)
        people = data.test.people[index]
        for axis in row:
            axis.imshow(images[0].numpy().astype("uint8"))
        for box, ignored in zip(people.boxes * scale, people.ignored, strict=True):
            _draw_box(row[0], box, "grey" if ignored else "lime")
        for one in detections:
            if one["image_id"] == index and one["score"] >= _SHOWN_SCORE:
                box = np.array(one["bbox"]) * scale
                _draw_box(row[1], box, "red", f"{one['score']:.2f}")
    rows[0, 0].set_title("people (grey: ignored)")
    rows[0, 1].set_title(f"found (scores of at least {_SHOWN_SCORE})")
    with staged(path) as new:
        figure.savefig(new, format="png", dpi=100)


def _draw_box(axis, box, colour, text=None):
    x, y, width, height = box
    axis.add_patch(Rectangle((x, y), width, height, fill=False, color=colour))
    if text:
        axis.text(x, y, text, color=colour, fontsize=6, verticalalignment="bottom")


def draw_miss_rates(path: pathlib.Path, curves: Mapping[str, MissRateCurve]) -> None:
    """Writes a plot of miss rates over false positives per image.

    Args:
        path: Path of the PNG file.
        curves: Curve of each subset, by name.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axis = figure.subplots()
    for name, curve in curves.items():
        if curve.positives and len(curve.fppi):
            axis.step(
                curve.fppi,
                100 * curve.miss_rate,
                where="post",
                label=f"{name} ({curve.positives} people)",
            )
    axis.set(
        xscale="log",
        yscale="log",
        xlim=(1e-3, 1e1),
        ylim=(1, 100),
        xlabel="false positives per image",
        ylabel="miss rate in %",
    )
    axis.grid(which="both", alpha=0.3)
    axis.axvspan(1e-2, 1, alpha=0.08)  # range of the log-average
    if axis.get_legend_handles_labels()[0]:
        axis.legend()
    with staged(path) as new:
        figure.savefig(new, format="png", dpi=100)


def draw_sweep(
    path: pathlib.Path, scores: Mapping[str, Mapping[str, float | None]], unit: str
) -> None:
    """Writes a plot that compares runs, such as those of several alphas (paper, Fig. 9).

    Args:
        path: Path of the PNG file.
        scores: Numbers of each run, by name of the run and of the number; None where
            there is none.
        unit: Name and unit of the numbers.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axis = figure.subplots()
    for name in next(iter(scores.values())):
        values = [np.nan if run[name] is None else run[name] for run in scores.values()]
        axis.plot(list(scores), values, marker="o", linestyle=":", label=name)
    axis.set(ylabel=unit)
    axis.tick_params(axis="x", rotation=30 if len(scores) > 5 else 0)
    axis.grid(alpha=0.3)
    axis.legend()
    with staged(path) as new:
        figure.savefig(new, format="png", dpi=100)


def class_colours(count: int) -> np.ndarray:
    """Returns a colour for each class, uint8 (256, 3); black for pixels of no class."""
    colours = np.zeros((256, 3), "uint8")
    palette = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count))[:, :3]
    # Neighbours in the list get very different colours.
    order = np.argsort(np.arange(count) * 7 % count, kind="stable")
    colours[:count] = (255 * palette[order]).astype("uint8")
    colours[IGNORED] = 0
    return colours
