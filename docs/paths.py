"""Draws docs/paths.png, the three paths of a batch: `python docs/paths.py`."""

import pathlib

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

STUDENT, TEACHER, HEAD = "#4c9be8", "#f0a04b", "#7a6bc4"
PATHS = [
    ("plain", "SSSSS", "L3"),
    ("student first", "STSTS", "L1"),
    ("teacher first", "TSTST", "L2"),
]


def box(axis, x, y, width, text, color, **style):
    shape = FancyBboxPatch(
        (x, y - 0.28),
        width,
        0.56,
        "round,pad=0.02,rounding_size=0.08",
        fc=color,
        ec="none",
    )
    axis.add_patch(shape)
    axis.text(x + width / 2, y, text, ha="center", va="center", color="white", **style)


def arrow(axis, x, y, to):
    axis.add_patch(
        FancyArrowPatch((x, y), (to, y), arrowstyle="-|>", mutation_scale=9, color="0.4")
    )


def main():
    figure = Figure((9, 3.1), dpi=150, layout="constrained")
    axis = figure.subplots()
    for row, (name, owners, loss) in enumerate(PATHS):
        y = 2 - row
        axis.text(0, y, name, ha="left", va="center", fontsize=11)
        x = 1.9
        for stage, owner in enumerate(owners, start=1):
            arrow(axis, x - 0.35, y, x)
            box(axis, x, y, 0.8, f"{owner}{stage}", STUDENT if owner == "S" else TEACHER)
            following = owners[stage] if stage < 5 else "S"
            if following != owner:
                axis.plot(x + 0.975, y, "o", color="0.25", markersize=6, zorder=3)
            x += 1.15
        arrow(axis, x - 0.35, y, x)
        box(axis, x, y, 0.95, "head", HEAD)
        arrow(axis, x + 0.95, y, x + 1.3)
        axis.text(x + 1.38, y, loss, ha="left", va="center", fontsize=12)
    legend = (
        "S  student, trained    T  teacher, frozen    \N{BLACK CIRCLE}  1x1 convolution"
    )
    axis.text(1.9, -0.72, legend, fontsize=9, color="0.25", va="center")
    formula = r"loss $= \alpha\,(L_1 + L_2) + L_3$,   $\alpha = 2 L_3\,/\,(L_1 + L_2)$"
    axis.text(0, 2.72, formula, fontsize=12, va="center")
    axis.set(xlim=(-0.05, 9.5), ylim=(-0.95, 3))
    axis.axis("off")
    figure.savefig(pathlib.Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
