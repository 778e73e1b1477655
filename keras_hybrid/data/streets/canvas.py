"""A picture with a map of what covers each pixel, and a pen that draws in metres."""

import numpy as np
from PIL import Image, ImageDraw

OVERSAMPLING = 2  # the picture is drawn so many times larger, for smooth edges
LAMP = 240  # no paint is as bright: what is, shines at dusk

BLACK, WHITE, STEEL = (22, 22, 24), (235, 235, 230), (120, 122, 126)


class Canvas:
    """A picture, and beside it a map of which part covers each pixel.

    Attributes:
        picture: RGB, `OVERSAMPLING` times as large.
        parts: Grey values are the numbers of parts.
        part: Number of the part being drawn.
        extent: Its left, top, right and bottom in pixels, also outside of the picture.
    """

    def __init__(self, height, width):
        size = width * OVERSAMPLING, height * OVERSAMPLING
        self.picture = Image.new("RGB", size)
        self.parts = Image.new("L", (width, height))
        self._picture = ImageDraw.Draw(self.picture)
        self._parts = ImageDraw.Draw(self.parts)
        self.begin(0)

    def begin(self, part):
        self.part, self.extent = part, [np.inf, np.inf, -np.inf, -np.inf]

    def shows(self, points):
        """Whether the picture may show something between (x, y), in pixels."""
        for values, size in zip(zip(*points), self.parts.size):
            if max(values) < -1 or min(values) > size:
                return False
        return True

    def polygon(self, points, fill, detail=False):
        """Fills a polygon of (x, y) in pixels; a `detail` lies within what is there."""
        self._picture.polygon(_larger(points), fill)
        if not detail:
            self._reach(points)
            self._parts.polygon(points, self.part)

    def ellipse(self, x, y, radius_x, radius_y, fill, detail=False):
        box = [(x - radius_x, y - radius_y), (x + radius_x, y + radius_y)]
        self._picture.ellipse(_larger(box), fill)
        if not detail:
            self._reach(box)
            self._parts.ellipse(box, self.part)

    def line(self, points, width, fill, detail=False):
        thick = max(1, round(width * OVERSAMPLING))
        self._picture.line(_larger(points), fill, thick, joint="curve")
        if not detail:
            self._reach(points, width / 2)
            self._parts.line(points, self.part, max(1, round(width)))

    def _reach(self, points, margin=0.0):
        left, top, right, bottom = self.extent
        for x, y in points:
            left, top = min(left, x - margin), min(top, y - margin)
            right, bottom = max(right, x + margin), max(bottom, y + margin)
        self.extent = [left, top, right, bottom]


def _larger(points):
    return [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in points]


class Pen:
    """Draws one thing: x to the right and y up from its foot, in metres.

    Args:
        canvas: A `Canvas`.
        foot: (x, y) in pixels.
        scale: Pixels per metre.
    """

    def __init__(self, canvas, foot, scale):
        self.canvas, self.foot, self.scale = canvas, foot, scale

    def __call__(self, x, y):
        """(x, y) in pixels."""
        return self.foot[0] + x * self.scale, self.foot[1] - y * self.scale

    def polygon(self, points, fill, detail=False):
        self.canvas.polygon([self(x, y) for x, y in points], fill, detail)

    def box(self, left, bottom, right, top, fill, detail=False):
        corners = (left, bottom), (left, top), (right, top), (right, bottom)
        self.polygon(corners, fill, detail)

    def disc(self, x, y, radius, fill, detail=False, narrow=1.0):
        radius = radius * self.scale
        self.canvas.ellipse(*self(x, y), radius * narrow, radius, fill, detail)

    def limb(self, points, width, fill, detail=False):
        points = [self(x, y) for x, y in points]
        self.canvas.line(points, width * self.scale, fill, detail)


def colour(rng, low=25, high=230):
    return tuple(rng.integers(low, high, 3).tolist())


def grey(rng, low=70, high=190):
    value = rng.integers(low, high)
    return tuple((value + rng.integers(-9, 10, 3)).tolist())
