"""Predictions as people look at them."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from keras_hybrid.data.label_maps import IGNORED
from keras_hybrid.staging import staged

_ROWS = 4


def draw_label_maps(path, student, batches, count, class_names):
    """Writes a PNG of test images, their truth, and what the student makes of them.

    Args:
        path: Of the PNG.
        student: From images (1, H, W, 3) to scores (1, H, W, C).
        batches: Images (1, H, W, 3) and label maps (1, H, W).
        count: How many there are; four at equal distances are drawn.
        class_names: Of the channels.
    """
    colours = class_colours(len(class_names))
    figure = Figure(figsize=(12, 2.4 * _ROWS), layout="constrained")
    rows = figure.subplots(_ROWS, 3, squeeze=False)
    for axis in rows.flat:
        axis.set_axis_off()
    chosen = batches.shard(max(1, count // _ROWS), 0)
    for row, (images, labels) in zip(rows, chosen):
        prediction = np.argmax(student(images, training=False)[0], axis=-1)
        for axis, picture in zip(
            row,
            (
                images[0].numpy().astype("uint8"),
                colours[labels[0].numpy()],
                colours[prediction],
            ),
        ):
            axis.imshow(picture)
    for axis, title in zip(rows[0], ("image", "truth", "prediction")):
        axis.set_title(title)
    patches = [
        Patch(color=colour / 255, label=name)
        for name, colour in zip(class_names, colours)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=7, fontsize=8)
    with staged(path) as new:
        figure.savefig(new, format="png", dpi=100)


def class_colours(count):
    """A colour for each class, uint8 (256, 3); black for pixels of no class."""
    colours = np.zeros((256, 3), "uint8")
    palette = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count))[:, :3]
    # Neighbours in the list are far apart in colour.
    order = np.argsort(np.arange(count) * 7 % count, kind="stable")
    colours[:count] = (255 * palette[order]).astype("uint8")
    colours[IGNORED] = 0
    return colours
