"""Drawn street scenes, so that everything runs without a download.

A stand-in for photographs: seeded, quick, and evidence of nothing.
"""

import numpy as np
from PIL import Image, ImageDraw

CLASSES = "pedestrian", "rider", "car", "bus", "building", "tree", "sign", "light"
DOMAINS = "day", "dusk"

_OVERSAMPLING = 2  # drawn so many times larger, for smooth edges


def crops(count, *, size=32, domain="day", seed=0):
    """Draws crops of street scenes with one thing in each.

    Image i of a seed does not depend on `count`. Classes take turns.

    Args:
        count: Number of crops.
        size: Height and width in pixels, at least 8.
        domain: `"day"`, or `"dusk"` with other colours, less light and more noise.
        seed: Which crops, an integer of at least 0.

    Returns:
        Images uint8 (count, size, size, 3), raw RGB, and labels int32 (count,), indices
        of `CLASSES`.

    Raises:
        ValueError: An argument is none of these.
    """
    if not isinstance(count, int | np.integer) or count < 0:
        raise ValueError(f"`count` must be at least 0. Received: count={count}")
    if not isinstance(size, int | np.integer) or size < 8:
        raise ValueError(f"`size` must be at least 8 pixels. Received: size={size}")
    if domain not in DOMAINS:
        raise ValueError(
            f"`domain` must be one of {DOMAINS}. Received: domain={domain!r}"
        )
    labels = np.arange(count, dtype="int32") % len(CLASSES)
    images = np.zeros((count, size, size, 3), "uint8")
    for i, label in enumerate(labels):
        rng = np.random.default_rng([seed, i, DOMAINS.index(domain)])
        images[i] = _crop(CLASSES[label], size, domain, rng)
    return images, labels


def _crop(name, size, domain, rng):
    pen = _Pen(size * _OVERSAMPLING, rng)
    horizon = rng.uniform(0.35, 0.6)
    _background(pen, horizon, rng)
    height = rng.uniform(0.55, 0.95)
    middle, ground = rng.uniform(0.35, 0.65), rng.uniform(0.86, 1.0)
    _DRAW[name](pen.at(middle, ground, height), rng)
    if rng.random() < 0.3:  # something in front
        left = rng.uniform(0, 0.8)
        pen.box(
            left, rng.uniform(0.6, 0.9), left + rng.uniform(0.04, 0.25), 1, pen.grey()
        )
    image = pen.image.resize((size, size), Image.Resampling.BOX)
    return _lit(np.asarray(image, "float32"), domain, rng)


def _lit(image, domain, rng):
    light = rng.uniform(0.75, 1.15)
    tint, noise = np.ones(3), rng.uniform(2, 8)
    if domain == "dusk":
        light, noise = 0.5 * light, 2 * noise
        tint = np.array([1.15, 0.85, 1.0])
    image = image * (light * tint) + rng.normal(0, noise, image.shape)
    return np.clip(image, 0, 255).astype("uint8")


class _Pen:
    """Draws in a unit square, y down, or in that of one thing standing on the ground.

    Within `at(...)`, x is -0.5..0.5 of the thing's height around its middle, and y is 0
    at its foot and 1 at its top.
    """

    def __init__(self, pixels, rng, image=None, frame=(0.0, 0.0, 1.0, 1.0)):
        self.image = image or Image.new("RGB", (pixels, pixels))
        self.draw = ImageDraw.Draw(self.image)
        self.pixels, self.rng, self.frame = pixels, rng, frame

    def at(self, middle, ground, height):
        return _Pen(self.pixels, self.rng, self.image, (middle, ground, height, -height))

    def colour(self, low=20, high=235):
        return tuple(int(c) for c in self.rng.uniform(low, high, 3))

    def grey(self, low=60, high=190):
        return tuple(
            np.clip(self.rng.uniform(low, high) + self.rng.normal(0, 8, 3), 0, 255)
            .astype(int)
            .tolist()
        )

    def _xy(self, points):
        x0, y0, dx, dy = self.frame
        return [
            ((x0 + x * dx) * self.pixels, (y0 + y * dy) * self.pixels) for x, y in points
        ]

    def _corners(self, left, top, right, bottom):
        (x1, y1), (x2, y2) = self._xy([(left, top), (right, bottom)])
        return [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]

    def box(self, left, top, right, bottom, fill):
        self.draw.rectangle(self._corners(left, top, right, bottom), fill)

    def disc(self, x, y, radius, fill):
        box = self._corners(x - radius, y - radius, x + radius, y + radius)
        self.draw.ellipse(box, fill)

    def polygon(self, points, fill):
        self.draw.polygon(self._xy(points), fill)

    def limb(self, points, width, fill):
        thickness = max(1, round(width * abs(self.frame[2]) * self.pixels))
        self.draw.line(self._xy(points), fill, thickness, joint="curve")


def _background(pen, horizon, rng):
    sky = np.array([130, 175, 225]) + rng.normal(0, 25, 3)
    for i in range(6):
        y = horizon * i / 6
        fill = tuple(np.clip(sky + 12 * i, 0, 255).astype(int).tolist())
        pen.box(0, y, 1, y + horizon / 6 + 0.02, fill)
    for _ in range(rng.integers(0, 4)):  # walls and hedges far away
        left, top = rng.uniform(-0.2, 0.9), rng.uniform(0.05, 1.0) * horizon
        fill = (
            pen.grey(70, 200)
            if rng.random() < 0.6
            else (50, 100 + int(rng.integers(60)), 50)
        )
        pen.box(left, top, left + rng.uniform(0.2, 0.7), horizon, fill)
    pen.box(0, horizon, 1, 1, pen.grey(70, 130))
    if rng.random() < 0.5:
        pen.box(0, horizon, 1, horizon + 0.08, (90, 140, 70))
    if rng.random() < 0.4:
        x = rng.uniform(0, 1)
        pen.polygon(
            [(x, horizon), (x + 0.02, horizon), (x + 0.3, 1), (x + 0.2, 1)], (225,) * 3
        )


def _person(pen, rng, hip, stride, y0=0.0):
    skin = tuple(int(c) for c in np.array([225, 180, 150]) * rng.uniform(0.35, 1.05))
    trousers, shirt = pen.colour(20, 130), pen.colour()
    for side in (-1, 1):
        foot = side * stride
        pen.limb(
            [(0, hip), (foot * 0.6, (hip + y0) / 2 + 0.02), (foot, y0)], 0.085, trousers
        )
    pen.polygon(
        [(-0.12, 0.8), (0.12, 0.8), (0.08, hip - 0.03), (-0.08, hip - 0.03)], shirt
    )
    for side in (-1, 1):
        swing = rng.uniform(-0.18, 0.18)
        pen.limb(
            [
                (side * 0.11, 0.78),
                (side * 0.15 + swing * 0.5, 0.62),
                (side * 0.13 + swing, 0.48),
            ],
            0.055,
            shirt,
        )
    pen.disc(0, 0.91, 0.075, skin)
    pen.polygon(
        [(-0.075, 0.92), (0.075, 0.92), (0.05, 0.99), (-0.05, 0.99)], pen.colour(10, 110)
    )


def _pedestrian(pen, rng):
    _person(pen, rng, hip=0.48, stride=rng.uniform(0.02, 0.16))


def _rider(pen, rng):
    frame = pen.colour(10, 200)
    for x in (-0.27, 0.27):
        pen.disc(x, 0.19, 0.19, (25, 25, 25))
        pen.disc(x, 0.19, 0.145, (150, 150, 150))
    pen.limb([(-0.27, 0.19), (-0.05, 0.42), (0.2, 0.42), (0.27, 0.19)], 0.04, frame)
    pen.limb([(-0.05, 0.42), (0.02, 0.15), (0.2, 0.42), (0.22, 0.52)], 0.04, frame)
    _person(pen, rng, hip=0.48, stride=0.07, y0=0.13)


def _car(pen, rng):
    paint, glass = pen.colour(30, 240), (60, 80, 95)
    back, front = rng.uniform(-0.42, -0.3), rng.uniform(0.15, 0.32)
    pen.polygon(
        [(back, 0.32), (back + 0.12, 0.56), (front - 0.1, 0.56), (front, 0.32)], paint
    )
    pen.polygon(
        [
            (back + 0.05, 0.33),
            (back + 0.14, 0.53),
            (front - 0.12, 0.53),
            (front - 0.04, 0.33),
        ],
        glass,
    )
    pen.box(-0.06, 0.32, -0.03, 0.54, paint)
    pen.box(-0.58, 0.1, 0.58, 0.34, paint)
    pen.box(0.53, 0.22, 0.58, 0.29, (250, 240, 190))
    pen.box(-0.58, 0.22, -0.54, 0.29, (190, 30, 30))
    for x in (-0.34, 0.34):
        pen.disc(x, 0.1, 0.1, (20, 20, 20))
        pen.disc(x, 0.1, 0.05, (160, 160, 160))


def _bus(pen, rng):
    paint = pen.colour(60, 245)
    pen.box(-0.62, 0.08, 0.62, 0.82, paint)
    pen.box(-0.62, 0.3, 0.62, 0.34, pen.colour())
    for i in range(5):
        left = -0.57 + 0.235 * i
        pen.box(left, 0.44, left + 0.19, 0.72, (65, 85, 100))
    for x in (-0.36, 0.38):
        pen.disc(x, 0.09, 0.09, (20, 20, 20))


def _building(pen, rng):
    wall, glass = pen.grey(90, 220), pen.colour(40, 120)
    width = rng.uniform(0.3, 0.5)
    pen.box(-width, 0, width, 1, wall)
    if rng.random() < 0.5:
        pen.polygon([(-width, 0.85), (0, 1.1), (width, 0.85)], (140, 70, 55))
    columns, rows = rng.integers(2, 5), rng.integers(3, 6)
    for row in range(rows):
        for column in range(columns):
            x = -width + 2 * width * (column + 0.25) / columns
            y = 0.12 + 0.75 * row / rows
            pen.box(x, y, x + width / columns, y + 0.4 / rows, glass)


def _tree(pen, rng):
    pen.box(-0.045, 0, 0.045, 0.5, (95, 65, 40))
    green = np.array([55, 120, 45]) + rng.normal(0, 15, 3)
    for _ in range(9):
        x, y = rng.normal(0, 0.13), rng.normal(0.7, 0.1)
        fill = tuple(np.clip(green + rng.normal(0, 14), 0, 255).astype(int).tolist())
        pen.disc(x, y, rng.uniform(0.1, 0.2), fill)


def _sign(pen, rng):
    pen.box(-0.02, 0, 0.02, 0.8, (130, 130, 135))
    kind = rng.integers(3)
    if kind == 0:
        pen.disc(0, 0.8, 0.2, (200, 30, 30))
        pen.box(-0.13, 0.77, 0.13, 0.83, (245, 245, 245))
    elif kind == 1:
        pen.polygon([(-0.22, 0.63), (0.22, 0.63), (0, 1.0)], (200, 30, 30))
        pen.polygon([(-0.13, 0.68), (0.13, 0.68), (0, 0.9)], (245, 245, 240))
    else:
        pen.box(-0.18, 0.62, 0.18, 0.98, (30, 80, 170))
        pen.polygon([(-0.1, 0.7), (0.1, 0.7), (0, 0.9)], (245, 245, 245))


def _light(pen, rng):
    pen.box(-0.025, 0, 0.025, 0.6, (70, 70, 75))
    pen.box(-0.12, 0.55, 0.12, 1.0, (25, 28, 30))
    on = rng.integers(3)
    for i, colour in enumerate([(40, 220, 90), (250, 190, 40), (240, 40, 40)]):
        dimmed = colour if i == on else tuple(c // 5 for c in colour)
        pen.disc(0, 0.63 + 0.145 * i, 0.06, dimmed)


_DRAW = dict(
    zip(
        CLASSES,
        (_pedestrian, _rider, _car, _bus, _building, _tree, _sign, _light),
        strict=True,
    )
)
