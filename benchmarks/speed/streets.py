"""Measures how fast streets are rendered, and writes examples to docs/streets.png."""

import multiprocessing
import pathlib
import time

import numpy as np
from PIL import Image

from keras_hybrid.data import streets

_SCENES, _ROUNDS = 400, 3
_SHEET = pathlib.Path(__file__).parents[2] / "docs" / "streets.png"


def draw(index: int) -> None:
    """Renders a street."""
    streets.scene(index)


def main() -> None:
    cores = multiprocessing.cpu_count()
    rates = []
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        pool.map(draw, range(2 * cores))
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            pool.map(draw, range(_SCENES), chunksize=20)
            rates.append(_SCENES / (time.perf_counter() - started))
    print(
        f"128x256 on {cores} cores: {min(rates):.0f} to {max(rates):.0f} streets a second"
    )
    sheet().save(_SHEET, optimize=True)
    print(f"Written: {_SHEET}")


def sheet() -> Image.Image:
    """Returns a picture of streets by day and at dusk, label maps, and crops by class."""
    rows = [
        np.concatenate(
            [streets.scene(i, domain=domain).image for i in (first, first + 1)], 1
        )
        for domain, first in (("day", 0), ("day", 2), ("dusk", 0))
    ]
    colours = np.random.default_rng(4).integers(
        40, 255, (len(streets.LABELS), 3), "uint8"
    )
    rows.append(np.concatenate([colours[streets.scene(i).label_map] for i in (2, 3)], 1))
    crops, _ = streets.crops(len(streets.CLASSES), size=64)
    rows.append(np.concatenate(list(crops), 1))
    return Image.fromarray(np.concatenate(rows))


if __name__ == "__main__":
    main()
