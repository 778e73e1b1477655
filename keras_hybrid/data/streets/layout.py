"""The street: where the camera stands, what is in front of it, and how to render it.

Positions are in metres: x to the right of the middle of the road, y up, z ahead of the
camera.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_hybrid.data.streets import bodies, objects
from keras_hybrid.data.streets.canvas import LAMP, Canvas, Pen, colour, grey

ROAD = 4.0  # from the middle of the road to the kerb
WALL = 8.0  # from the middle of the road to the houses
_CAMERA_HEIGHT = 1.35  # above the ground
_NEAREST, _FURTHEST = 4.5, 45.0
GROUND = "sky", "sidewalk", "road", "building"  # parts 0 to 3
SIDEWAYS = {"car": objects.car_from_side, "bus": objects.bus_from_side}
_LENGTHWAYS = {
    "car": (objects.car_from_behind, objects.car_from_front),
    "bus": (objects.bus_from_behind, objects.bus_from_front),
}
_STANDING = {
    "tree": objects.tree,
    "sign": objects.sign,
    "light": objects.traffic_light,
}


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera that looks along the street; (x, y) is the vanishing point in pixels."""

    focal: float
    x: float
    y: float
    side: float  # metres from the middle of the road to the right

    def __call__(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Projects a point x to the right, y up and z ahead, in metres, to pixels."""
        scale = self.focal / z
        return self.x + (x - self.side) * scale, self.y + (_CAMERA_HEIGHT - y) * scale

    def zoomed(self, left: float, top: float, factor: float) -> "Camera":
        """The camera of a window with its corner at (left, top), enlarged by `factor`."""
        x, y = (self.x - left) * factor, (self.y - top) * factor
        return Camera(self.focal * factor, x, y, self.side)


@dataclasses.dataclass(frozen=True)
class Thing:
    """An object in the street; its foot is at x and z, in metres."""

    kind: str
    x: float
    z: float
    seed: int
    sideways: bool = False


@dataclasses.dataclass(frozen=True)
class Part:
    """What shares one label in an object, such as the bicycle of a rider."""

    number: int
    label: str
    extent: tuple[float, ...]
    keypoints: tuple[tuple[float, float, float], ...] = ()


def place_things(rng: np.random.Generator, camera: Camera, width: int) -> list[Thing]:
    """Samples the objects in the street, the furthest first."""
    things = []

    def add(kind, x, z, **kwargs):
        things.append(Thing(kind, x, z, int(rng.integers(1 << 32)), **kwargs))

    def depth():
        return _NEAREST * (_FURTHEST / _NEAREST) ** rng.random()

    def in_view(z):
        left = -camera.x * z / camera.focal
        return camera.side + left + rng.random() * width * z / camera.focal

    for _ in range(rng.integers(2, 8)):
        z = depth() * 0.75 + 1
        x = np.clip(in_view(z), -WALL + 0.5, WALL - 0.5)
        add("pedestrian", x, z)
        if rng.random() < 0.3:
            add("pedestrian", x + rng.uniform(0.3, 0.7), z + rng.uniform(0.05, 0.5))
    for _ in range(rng.integers(0, 3)):
        z = depth() * 0.8 + 1
        add("rider", np.clip(in_view(z), -ROAD, ROAD), z)
    for _ in range(rng.integers(1, 6)):
        lane = rng.choice((-3.1, -1.5, 1.5, 3.1)) + rng.uniform(-0.2, 0.2)
        add("car", lane, depth() + 3)
    if rng.random() < 0.25:
        add("car", rng.uniform(-6, 6), rng.uniform(10, 30), sideways=True)
    if rng.random() < 0.3:
        add("bus", rng.choice((-2, 2)), rng.uniform(14, 40), sideways=rng.random() < 0.3)
    for kind, most in (("tree", 6), ("sign", 4), ("light", 3)):
        for _ in range(rng.integers(0, most)):
            kerb = rng.choice((-1, 1)) * rng.uniform(ROAD + 0.3, WALL - 1.5)
            add(kind, kerb, depth() + 2)
    return sorted(things, key=lambda thing: -thing.z)


def draw(
    rng: np.random.Generator,
    camera: Camera,
    size: tuple[int, int],
    things: Sequence[Thing],
    domain: str,
) -> tuple[Canvas, list[list[Part]]]:
    """Renders a street; returns the `Canvas` and, for each object, its `Part`s."""
    canvas = Canvas(*size)
    _draw_street(canvas, rng, camera, size, domain)
    parts, number = [], len(GROUND)
    for thing in things:
        parts.append(draw_thing(canvas, camera, thing, number))
        number = canvas.part + 1
    return canvas, parts


def draw_thing(canvas: Canvas, camera: Camera, thing: Thing, number: int) -> list[Part]:
    """Draws an object from part `number` on; its main `Part` comes last."""
    rng = np.random.default_rng(thing.seed)
    pen = Pen(canvas, camera(thing.x, 0, thing.z), camera.focal / thing.z)
    canvas.begin(number)
    parts, keypoints = [], ()
    if thing.kind in _STANDING:
        _STANDING[thing.kind](pen, rng)
    elif thing.kind in SIDEWAYS:
        ends = _LENGTHWAYS[thing.kind]
        view = SIDEWAYS[thing.kind] if thing.sideways else ends[int(thing.x < 0)]
        view(pen, rng)
    elif thing.kind == "rider":
        yaw = rng.choice((-1, 1)) * rng.uniform(0.9, 1.9)
        objects.bicycle(pen, rng, yaw)
        parts.append(Part(number, "bicycle", tuple(canvas.extent)))
        canvas.begin(number + 1)
        keypoints = bodies.person(pen, rng, bodies.riding(rng), yaw)
    else:
        joints = bodies.walking(rng, rng.uniform(1.5, 1.9))
        keypoints = bodies.person(pen, rng, joints, rng.uniform(0, 2 * np.pi))
    own = Part(canvas.part, thing.kind, tuple(canvas.extent), tuple(keypoints))
    return [*parts, own]


def _draw_street(canvas, rng, camera, size, domain):
    height, width = size
    dusk = domain == "dusk"
    sky = np.array((215, 120, 90) if dusk else (135, 175, 220)) + rng.integers(-25, 15, 3)
    for i in range(6):
        top = camera.y * i / 6
        fill = tuple(np.clip(sky + 6 * i, 0, LAMP - 1).tolist())
        _rectangle(canvas, 0, top, width, camera.y + 1, fill)
    canvas.begin(GROUND.index("building"))
    for _ in range(rng.integers(2, 6)):  # at the end of the street
        left, top = camera(rng.uniform(-40, 30), rng.uniform(6, 22), 90)
        right = left + rng.uniform(8, 20) * camera.focal / 90
        _rectangle(canvas, left, top, right, camera.y + 1, grey(rng, 90, 190))
    canvas.begin(GROUND.index("sidewalk"))
    _rectangle(canvas, 0, camera.y, width, height, grey(rng, 135, 175))
    canvas.begin(GROUND.index("road"))
    tarmac = grey(rng, 70, 115)
    _on_the_ground(canvas, camera, -ROAD, ROAD, 0.8, 400, tarmac)
    marking = (215, 215, 210)
    for z in np.arange(rng.uniform(1, 5), 60, 6.0):
        _on_the_ground(canvas, camera, -0.07, 0.07, z, z + 3, marking, detail=True)
    if rng.random() < 0.4:
        z = rng.uniform(6, 20)
        for x in np.arange(-ROAD + 0.3, ROAD - 0.5, 1.1):
            _on_the_ground(canvas, camera, x, x + 0.55, z, z + 2.5, marking, detail=True)
    canvas.begin(GROUND.index("building"))
    for side in (-1, 1):
        ends = np.cumsum(rng.uniform(6, 16, 8)) + 1.5
        for near, far in list(zip(ends, ends[1:]))[::-1]:
            _house(canvas, rng, camera, side * WALL, near, far, dusk)


def _rectangle(canvas, left, top, right, bottom, fill):
    canvas.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)


def _on_the_ground(canvas, camera, left, right, near, far, fill, detail=False):
    corners = (left, near), (left, far), (right, far), (right, near)
    canvas.polygon([camera(x, 0, z) for x, z in corners], fill, detail)


def _house(canvas, rng, camera, x, near, far, dusk):
    if rng.random() < 0.12:
        return
    high, wall = rng.uniform(5, 14), grey(rng, 95, 215)
    far -= rng.choice((0, 0, 2.5))
    shown = canvas.shows([camera(x, y, z) for y in (0, high) for z in (near, far)])

    def facade(z1, z2, bottom, top, fill, detail=False):
        if not shown:
            return
        corners = (z1, bottom), (z1, top), (z2, top), (z2, bottom)
        canvas.polygon([camera(x, y, z) for z, y in corners], fill, detail)

    facade(near, far, 0, high, wall)
    facade(near, far, high - 0.4, high, tuple(c // 2 for c in wall), detail=True)
    pane = colour(rng, 40, 110)
    columns = max(1, int((far - near) / rng.uniform(2.4, 3.6)))
    width = (far - near) / columns
    for bottom in np.arange(0.9, high - 1.8, 2.9):
        for i in range(columns):
            z = near + (i + 0.25) * width
            lit = dusk and rng.random() < 0.4
            facade(
                z,
                z + width / 2,
                bottom,
                bottom + 1.5,
                (255, 226, 150) if lit else pane,
                True,
            )
