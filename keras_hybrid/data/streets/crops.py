"""Crops of synthetic streets around one object, for classification."""

import numpy as np

from keras_hybrid.data.streets.canvas import Canvas
from keras_hybrid.data.streets.layout import (
    GROUND,
    SIDEWAYS,
    WALL,
    Camera,
    Thing,
    draw,
    draw_thing,
    place_things,
)
from keras_hybrid.data.streets.scenes import check, generator, lit

CLASSES = "pedestrian", "rider", "car", "bus", "building", "tree", "sign", "light"

_HEIGHTS = dict(zip(CLASSES, (1.7, 1.8, 1.5, 3.1, 7.0, 5.2, 2.9, 3.2)))  # metres
_LENGTHS = {"car": 4.3, "bus": 10.4}


def crops(
    count: int, *, size: int = 32, domain: str = "day", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Renders crops of streets with one object in the middle of each.

    Image i of a seed does not depend on `count`. The labels cycle through the classes.

    Args:
        count: Number of crops.
        size: Height and width in pixels, at least 8.
        domain: As in `scene`.
        seed: Random seed, at least 0.

    Returns:
        Images uint8 (count, size, size, 3), raw RGB, and labels int32 (count,), indices
        of `CLASSES`.

    Raises:
        ValueError: If an argument is out of range.
    """
    check("count", count, 0)
    check("size", size, 8)
    check("seed", seed, 0)
    labels = np.arange(count, dtype="int32") % len(CLASSES)
    images = np.zeros((count, size, size, 3), "uint8")
    for i, label in enumerate(labels):
        images[i] = _crop(CLASSES[label], size, generator(seed, i, domain), domain)
    return images, labels


def _crop(name, size, rng, domain):
    """Renders a street in a window around one object until most of it is visible."""
    while True:
        target = Thing(
            kind=name,
            x=rng.choice((-1, 1)) * WALL if name == "building" else rng.uniform(-5, 5),
            z=rng.uniform(8, 24),
            seed=int(rng.integers(1 << 32)),
            sideways=name in SIDEWAYS and rng.random() < 0.5,
        )
        camera = _window(rng, target, size)
        things = [
            other
            for other in place_things(rng, camera, size)
            if rng.random() < (0.3 if other.z > target.z else 0.05)
        ]
        if name != "building":
            things = sorted([*things, target], key=lambda thing: -thing.z)
        canvas, parts = draw(rng, camera, (size, size), things, domain)
        if name == "building":
            part, whole = GROUND.index(name), 0.7 * size * size
        else:
            part = parts[things.index(target)][-1].number
            whole = _pixels_alone(target, camera, size)
        if np.count_nonzero(np.asarray(canvas.parts) == part) >= 0.6 * whole:
            return lit(canvas, rng, domain)


def _pixels_alone(target, camera, size):
    canvas = Canvas(size, size)
    part = draw_thing(canvas, camera, target, 1)[-1].number
    return np.count_nonzero(np.asarray(canvas.parts) == part)


def _window(rng, target, size):
    """The camera that shows the target in a square of `size` pixels."""
    camera = Camera(1.0, 0.0, 0.0, rng.uniform(-2.5, 2.5))
    tall = _HEIGHTS[target.kind]
    across = _LENGTHS[target.kind] if target.sideways else 0
    metres = max(tall, across) * rng.uniform(1.05, 1.7)
    x, y = camera(target.x, 0, target.z)
    window = metres / target.z
    left = x - window * rng.uniform(0.4, 0.6)
    top = y + (metres - tall) / target.z * rng.uniform(0.1, 0.5) - window
    return camera.zoomed(left, top, size / window)
