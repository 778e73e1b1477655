"""Whole street scenes with label maps, boxes and keypoints."""

import dataclasses

import numpy as np
from PIL import Image

from keras_hybrid.data.streets.canvas import LAMP, OVERSAMPLING, Canvas
from keras_hybrid.data.streets.layout import GROUND, Camera, draw, place_things

LABELS = (
    *("road", "sidewalk", "building", "sky", "tree", "sign", "light"),
    *("pedestrian", "rider", "bicycle", "car", "bus"),
)
THINGS = "pedestrian", "rider", "car", "bus"
DOMAINS = "day", "dusk"

_HIDDEN = -0.08  # metres; joints further behind the neck are hidden by the body


@dataclasses.dataclass(frozen=True)
class Scene:
    """A rendered street and its ground truth: N objects, in pixels from the top left.

    Attributes:
        image: uint8 (H, W, 3), raw RGB.
        label_map: uint8 (H, W), indices of `LABELS`.
        classes: int32 (N,), indices of `THINGS`; at least one pixel of each is visible.
        boxes: float32 (N, 4), left, top, width and height of the whole object, including
            what is occluded or outside the picture. A rider's excludes the bicycle.
        visible_boxes: float32 (N, 4), the same of the visible part.
        keypoints: float32 (N, 17, 3), x, y and 0 (not in the picture, or not a person), 1
            (occluded) or 2 (visible), in COCO's order (`bodies.KEYPOINTS`).
    """

    image: np.ndarray
    label_map: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    visible_boxes: np.ndarray
    keypoints: np.ndarray


def scene(
    index: int,
    *,
    size: tuple[int, int] | list[int] = (128, 256),
    domain: str = "day",
    seed: int = 0,
) -> Scene:
    """Renders one street. The same arguments give the same street.

    Args:
        index: Index of the street, at least 0.
        size: Size (height, width) in pixels, at least 32 each.
        domain: `"day"`, or `"dusk"` with other colours, lamps and more noise.
        seed: Random seed, at least 0.

    Returns:
        A `Scene`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> street = scene(0)
    >>> street.image.shape, street.label_map.shape
    ((128, 256, 3), (128, 256))
    """
    for name, value in (("index", index), ("seed", seed)):
        check(name, value, 0)
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"`size` must be (height, width). Received: size={size}")
    for value in size:
        check("size", value, 32)
    rng = generator(seed, index, domain)
    height, width = size
    camera = Camera(
        focal=height * rng.uniform(1.6, 2.3),
        x=width * rng.uniform(0.35, 0.65),
        y=height * rng.uniform(0.36, 0.5),
        side=rng.uniform(-2.5, 2.5),
    )
    things = place_things(rng, camera, width)
    canvas, parts_of_things = draw(rng, camera, (height, width), things, domain)
    part_map = np.asarray(canvas.parts)
    label_of = np.zeros(256, "uint8")
    label_of[: len(GROUND)] = [LABELS.index(name) for name in GROUND]
    parts = [part for of_thing in parts_of_things for part in of_thing]
    for part in parts:
        label_of[part.number] = LABELS.index(part.label)
    records = [r for part in parts if (r := _record(part, part_map)) is not None]
    return Scene(
        image=lit(canvas, rng, domain),
        label_map=label_of[part_map],
        classes=np.array([r[0] for r in records], "int32"),
        boxes=np.array([r[1] for r in records], "float32").reshape(-1, 4),
        visible_boxes=np.array([r[2] for r in records], "float32").reshape(-1, 4),
        keypoints=np.array([r[3] for r in records], "float32").reshape(-1, 17, 3),
    )


def check(name: str, value: object, least: int) -> None:
    if not isinstance(value, int | np.integer) or value < least:
        raise ValueError(
            f"`{name}` must be an integer of at least {least}. Received: {name}={value}"
        )


def generator(seed: int, index: int, domain: str) -> np.random.Generator:
    if domain not in DOMAINS:
        raise ValueError(
            f"`domain` must be one of {DOMAINS}. Received: domain={domain!r}"
        )
    return np.random.default_rng([seed, index, DOMAINS.index(domain)])


def _record(part, part_map):
    """(class, box, visible box, keypoints), or None if nothing of it is visible."""
    if part.label not in THINGS:
        return None
    rows, columns = np.nonzero(part_map == part.number)
    if not rows.size:
        return None
    left, top, right, bottom = part.extent
    visible = columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1
    keypoints = np.zeros((17, 3))
    for i, (x, y, near) in enumerate(part.keypoints):
        column, row = int(np.floor(x)), int(np.floor(y))
        if 0 <= row < part_map.shape[0] and 0 <= column < part_map.shape[1]:
            seen = part_map[row, column] == part.number and near > _HIDDEN
            keypoints[i] = x, y, 2 if seen else 1
    box = left, top, right - left, bottom - top
    return THINGS.index(part.label), box, visible, keypoints


def lit(canvas: Canvas, rng: np.random.Generator, domain: str) -> np.ndarray:
    """The picture at its final size, with the light of the domain and with noise."""
    picture = canvas.picture.reduce(OVERSAMPLING)
    pixels = np.asarray(picture, "float32")
    height, width, _ = pixels.shape
    light = np.full(3, rng.uniform(0.75, 1.1), "float32")
    clouds = rng.uniform(-0.13, 0.13, (height // 12 + 2, width // 12 + 2))
    clouds = Image.fromarray(clouds.astype("float32")).resize((width, height))
    shade, noise = 1 + np.asarray(clouds)[..., None], int(rng.integers(4, 14))
    if domain == "dusk":
        light = light * np.array((0.5, 0.42, 0.55), "float32")
        lamps = pixels.max(axis=2, keepdims=True) >= LAMP
        light, noise = np.where(lamps, np.float32(1), light), 2 * noise
    grain = rng.integers(-noise, noise + 1, pixels.shape, "int8")
    return np.clip(pixels * (light * shade) + grain, 0, 255).astype("uint8")
