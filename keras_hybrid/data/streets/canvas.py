"""A picture with a map of what covers each pixel, and a pen that draws in metres."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

OVERSAMPLING = 2  # factor by which the picture is rendered larger, for smooth edges
LAMP = 240  # brightness from which a colour counts as a lamp, which shines at dusk

BLACK, WHITE, STEEL = (22, 22, 24), (235, 235, 230), (120, 122, 126)


class Canvas:
    """A picture, and a map of the part that covers each pixel.

    Attributes:
        picture: RGB image, `OVERSAMPLING` times as large.
        parts: Greyscale image whose values are part numbers.
        part: Number of the part being drawn.
        extent: Left, top, right and bottom of this part in pixels, including what lies
            outside the picture.
    """

    def __init__(self, height: int, width: int) -> None:
        size = width * OVERSAMPLING, height * OVERSAMPLING
        self.picture = Image.new("RGB", size)
        self.parts = Image.new("L", (width, height))
        self._picture = ImageDraw.Draw(self.picture)
        self._parts = ImageDraw.Draw(self.parts)
        self.begin(0)

    def begin(self, part: int) -> None:
        self.part, self.extent = part, [np.inf, np.inf, -np.inf, -np.inf]

    def shows(self, points: Iterable[tuple[float, float]]) -> bool:
        """Whether something between points (x, y), in pixels, may be in the picture."""
        for values, size in zip(zip(*points), self.parts.size):
            if max(values) < -1 or min(values) > size:
                return False
        return True

    def polygon(
        self,
        points: Sequence[tuple[float, float]],
        fill: tuple[int, ...],
        detail: bool = False,
    ) -> None:
        """Fills a polygon of (x, y) in pixels; a `detail` is not in the part map."""
        self._picture.polygon(_larger(points), fill)
        if not detail:
            self._reach(points)
            self._parts.polygon(points, self.part)

    def ellipse(
        self,
        x: float,
        y: float,
        radius_x: float,
        radius_y: float,
        fill: tuple[int, ...],
        detail: bool = False,
    ) -> None:
        box = [(x - radius_x, y - radius_y), (x + radius_x, y + radius_y)]
        self._picture.ellipse(_larger(box), fill)
        if not detail:
            self._reach(box)
            self._parts.ellipse(box, self.part)

    def line(
        self,
        points: Sequence[tuple[float, float]],
        width: float,
        fill: tuple[int, ...],
        detail: bool = False,
    ) -> None:
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
    """Draws one object in metres: x to the right and y up from its foot.

    Args:
        canvas: Canvas to draw on.
        foot: Position (x, y) of the foot in pixels.
        scale: Pixels per metre.
    """

    def __init__(self, canvas: Canvas, foot: tuple[float, float], scale: float) -> None:
        self.canvas, self.foot, self.scale = canvas, foot, scale

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        """Converts (x, y) from metres to pixels."""
        return self.foot[0] + x * self.scale, self.foot[1] - y * self.scale

    def polygon(
        self,
        points: Iterable[tuple[float, float]],
        fill: tuple[int, ...],
        detail: bool = False,
    ) -> None:
        self.canvas.polygon([self(x, y) for x, y in points], fill, detail)

    def box(
        self,
        left: float,
        bottom: float,
        right: float,
        top: float,
        fill: tuple[int, ...],
        detail: bool = False,
    ) -> None:
        corners = (left, bottom), (left, top), (right, top), (right, bottom)
        self.polygon(corners, fill, detail)

    def disc(
        self,
        x: float,
        y: float,
        radius: float,
        fill: tuple[int, ...],
        detail: bool = False,
        narrow: float = 1.0,
    ) -> None:
        radius = radius * self.scale
        self.canvas.ellipse(*self(x, y), radius * narrow, radius, fill, detail)

    def limb(
        self,
        points: Iterable[tuple[float, float]],
        width: float,
        fill: tuple[int, ...],
        detail: bool = False,
    ) -> None:
        points = [self(x, y) for x, y in points]
        self.canvas.line(points, width * self.scale, fill, detail)


def colour(rng: np.random.Generator, low: int = 25, high: int = 230) -> tuple[int, ...]:
    return tuple(rng.integers(low, high, 3).tolist())


def grey(rng: np.random.Generator, low: int = 70, high: int = 190) -> tuple[int, ...]:
    value = rng.integers(low, high)
    return tuple((value + rng.integers(-9, 10, 3)).tolist())
