"""Objects in a street. Each function draws one with a `Pen` at its foot."""

import numpy as np

from keras_hybrid.data.streets.canvas import BLACK, STEEL, WHITE, Pen, colour

_TAIL_LIGHT, _HEADLIGHT, _PANE = (190, 30, 30), (250, 240, 195), (62, 80, 94)


def bicycle(pen: Pen, rng: np.random.Generator, yaw: float) -> None:
    paint, narrow = colour(rng, 10, 200), max(abs(np.sin(yaw)), 0.12)
    s = np.sin(yaw)
    for forward in (-0.52, 0.52):
        pen.disc(forward * s, 0.34, 0.34, BLACK, narrow=narrow)
        pen.disc(forward * s, 0.34, 0.27, STEEL, detail=True, narrow=narrow)
    points = [(-0.52, 0.34), (-0.15, 0.85), (0.36, 0.85), (0.52, 0.34)]
    pen.limb([(x * s, y) for x, y in points], 0.06, paint)
    points = [(-0.15, 0.85), (0.02, 0.32), (0.36, 0.85), (0.38, 1.05)]
    pen.limb([(x * s, y) for x, y in points], 0.06, paint)
    across = 0.25 * np.cos(yaw)
    pen.limb([(0.38 * s - across, 1.05), (0.38 * s + across, 1.05)], 0.05, BLACK)


def car_from_behind(
    pen: Pen, rng: np.random.Generator, lights: tuple[int, ...] = _TAIL_LIGHT
) -> None:
    paint = colour(rng, 25, 240)
    for x in (-0.68, 0.68):
        pen.box(x - 0.14, 0, x + 0.14, 0.4, BLACK)
    pen.polygon([(-0.78, 0.85), (-0.6, 1.45), (0.6, 1.45), (0.78, 0.85)], paint)
    pane = [(-0.64, 0.9), (-0.52, 1.36), (0.52, 1.36), (0.64, 0.9)]
    pen.polygon(pane, _PANE, detail=True)
    pen.box(-0.88, 0.22, 0.88, 0.88, paint)
    pen.box(-0.88, 0.22, 0.88, 0.36, tuple(c // 2 for c in paint), detail=True)
    for x in (-0.7, 0.7):
        pen.box(x - 0.16, 0.6, x + 0.16, 0.76, lights, detail=True)
    pen.box(-0.25, 0.44, 0.25, 0.56, WHITE, detail=True)


def car_from_front(pen: Pen, rng: np.random.Generator) -> None:
    car_from_behind(pen, rng, _HEADLIGHT)


def car_from_side(pen: Pen, rng: np.random.Generator) -> None:
    paint, to_right = colour(rng, 25, 240), rng.choice((-1, 1))

    def mirrored(points):
        return [(to_right * x, y) for x, y in points]

    roof = rng.uniform(1.35, 1.6)
    pen.polygon(mirrored([(-1.7, 0.8), (-1.2, roof), (0.4, roof), (1.15, 0.8)]), paint)
    pane = [(-1.45, 0.86), (-1.1, roof - 0.1), (0.35, roof - 0.1), (0.95, 0.86)]
    pen.polygon(mirrored(pane), _PANE, detail=True)
    pen.box(-0.45, 0.8, -0.33, roof, paint, detail=True)
    body = [(-2.15, 0.3), (-2.1, 0.82), (1.2, 0.86), (2.05, 0.72), (2.15, 0.3)]
    pen.polygon(mirrored(body), paint)
    pen.polygon(
        mirrored([(1.95, 0.55), (2.1, 0.55), (2.08, 0.68), (1.95, 0.7)]),
        _HEADLIGHT,
        detail=True,
    )
    pen.polygon(
        mirrored([(-2.13, 0.55), (-2.0, 0.55), (-2.0, 0.75), (-2.11, 0.75)]),
        _TAIL_LIGHT,
        detail=True,
    )
    for x in (-1.3, 1.35):
        pen.disc(to_right * x, 0.32, 0.32, BLACK)
        pen.disc(to_right * x, 0.32, 0.17, STEEL, detail=True)


def bus_from_behind(
    pen: Pen, rng: np.random.Generator, lights: tuple[int, ...] = _TAIL_LIGHT
) -> None:
    paint = colour(rng, 70, 245)
    for x in (-0.9, 0.9):
        pen.box(x - 0.2, 0, x + 0.2, 0.5, BLACK)
    pen.box(-1.27, 0.35, 1.27, 3.1, paint)
    pen.box(-1.1, 1.45, 1.1, 2.6, _PANE, detail=True)
    pen.box(-0.7, 2.7, 0.7, 2.98, BLACK, detail=True)
    pen.box(-0.5, 2.76, 0.5, 2.92, (240, 170, 60), detail=True)
    for x in (-1.05, 1.05):
        pen.box(x - 0.15, 0.6, x + 0.15, 1.0, lights, detail=True)


def bus_from_front(pen: Pen, rng: np.random.Generator) -> None:
    bus_from_behind(pen, rng, _HEADLIGHT)


def bus_from_side(pen: Pen, rng: np.random.Generator) -> None:
    paint = colour(rng, 70, 245)
    pen.box(-5.2, 0.35, 5.2, 3.1, paint)
    pen.box(-5.2, 1.15, 5.2, 1.3, colour(rng), detail=True)
    for i in range(7):
        left = -4.9 + 1.42 * i
        pen.box(left, 1.55, left + 1.2, 2.7, _PANE, detail=True)
    for x in (-3.2, 3.3):
        pen.disc(x, 0.5, 0.5, BLACK)
        pen.disc(x, 0.5, 0.25, STEEL, detail=True)


def tree(pen: Pen, rng: np.random.Generator) -> None:
    pen.limb([(0, 0), (0, 3.2)], rng.uniform(0.2, 0.35), (92, 64, 42))
    green = np.array((52, 112, 44)) + rng.integers(-22, 23, 3)
    for x, y in rng.normal((0, 4.2), (0.75, 0.6), (10, 2)):
        fill = tuple(np.clip(green + rng.integers(-16, 17), 0, 255).tolist())
        pen.disc(x, y, rng.uniform(0.5, 1.1), fill)


def sign(pen: Pen, rng: np.random.Generator) -> None:
    pen.limb([(0, 0), (0, 2.4)], 0.08, STEEL)
    kind = rng.integers(3)
    if kind == 0:
        pen.disc(0, 2.5, 0.36, (200, 30, 30))
        pen.box(-0.24, 2.44, 0.24, 2.56, WHITE, detail=True)
    elif kind == 1:
        pen.polygon([(-0.42, 2.2), (0.42, 2.2), (0, 2.95)], (200, 30, 30))
        pen.polygon([(-0.25, 2.3), (0.25, 2.3), (0, 2.74)], WHITE, detail=True)
    else:
        pen.box(-0.35, 2.15, 0.35, 2.85, (30, 80, 170))
        pen.polygon([(-0.2, 2.3), (0.2, 2.3), (0, 2.7)], WHITE, detail=True)


def traffic_light(pen: Pen, rng: np.random.Generator) -> None:
    pen.limb([(0, 0), (0, 2.3)], 0.11, (70, 70, 75))
    pen.box(-0.19, 2.2, 0.19, 3.2, (26, 28, 30))
    on = rng.integers(3)
    for i, lamp in enumerate([(40, 220, 90), (250, 190, 40), (240, 40, 40)]):
        dimmed = lamp if i == on else tuple(c // 5 for c in lamp)
        pen.disc(0, 2.4 + 0.3 * i, 0.12, dimmed, detail=True)
