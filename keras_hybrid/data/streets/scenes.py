"""Whole streets with everything a task could ask of them."""

import dataclasses

import numpy as np
from PIL import Image

from keras_hybrid.data.streets.canvas import LAMP, OVERSAMPLING
from keras_hybrid.data.streets.layout import GROUND, Camera, draw, place_things

LABELS = (
    *("road", "sidewalk", "building", "sky", "tree", "sign", "light"),
    *("pedestrian", "rider", "bicycle", "car", "bus"),
)
THINGS = "pedestrian", "rider", "car", "bus"
DOMAINS = "day", "dusk"

_HIDDEN = -0.08  # metres behind the neck: a joint on the far side of the body


@dataclasses.dataclass(frozen=True)
class Scene:
    """A drawn street and what is in it. N things, (x, y) in pixels from the top left.

    Attributes:
        image: uint8 (H, W, 3), raw RGB.
        label_map: uint8 (H, W), indices of `LABELS`.
        classes: int32 (N,), indices of `THINGS`; at least a pixel of each is visible.
        boxes: float32 (N, 4): left, top, width and height of the whole thing, also
            where others cover it or the picture ends. Of a rider without the bicycle.
        visible_boxes: float32 (N, 4): the same of what can be seen.
        keypoints: float32 (N, 17, 3): x, y and 0 (none: not in the picture, or no
            person), 1 (covered) or 2 (visible), in COCO's order (`bodies.KEYPOINTS`).
    """

    image: np.ndarray
    label_map: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    visible_boxes: np.ndarray
    keypoints: np.ndarray


def scene(index, *, size=(128, 256), domain="day", seed=0):
    """Draws one street. The same arguments give the same street.

    Args:
        index: Which one, an integer of at least 0.
        size: (height, width) in pixels, at least 32.
        domain: `"day"`, or `"dusk"` with other colours, lamps and more noise.
        seed: Which streets, an integer of at least 0.

    Returns:
        A `Scene`.

    Raises:
        ValueError: An argument is none of these.

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
    canvas, drawn = draw(rng, camera, (height, width), things, domain)
    parts = np.asarray(canvas.parts)
    label_of = np.zeros(256, "uint8")
    label_of[: len(GROUND)] = [LABELS.index(name) for name in GROUND]
    drawn = [part for of_thing in drawn for part in of_thing]
    for part in drawn:
        label_of[part.number] = LABELS.index(part.label)
    records = [r for part in drawn if (r := _record(part, parts)) is not None]
    return Scene(
        image=lit(canvas, rng, domain),
        label_map=label_of[parts],
        classes=np.array([r[0] for r in records], "int32"),
        boxes=np.array([r[1] for r in records], "float32").reshape(-1, 4),
        visible_boxes=np.array([r[2] for r in records], "float32").reshape(-1, 4),
        keypoints=np.array([r[3] for r in records], "float32").reshape(-1, 17, 3),
    )


def check(name, value, least):
    if not isinstance(value, int | np.integer) or value < least:
        raise ValueError(
            f"`{name}` must be integer and at least {least}. Received: {name}={value}"
        )


def generator(seed, index, domain):
    if domain not in DOMAINS:
        raise ValueError(
            f"`domain` must be one of {DOMAINS}. Received: domain={domain!r}"
        )
    return np.random.default_rng([seed, index, DOMAINS.index(domain)])


def _record(part, parts):
    """(class, box, visible box, keypoints), or None where nothing is to be seen."""
    if part.label not in THINGS:
        return None
    rows, columns = np.nonzero(parts == part.number)
    if not rows.size:
        return None
    left, top, right, bottom = part.extent
    visible = columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1
    keypoints = np.zeros((17, 3))
    for i, (x, y, near) in enumerate(part.keypoints):
        column, row = int(np.floor(x)), int(np.floor(y))
        if 0 <= row < parts.shape[0] and 0 <= column < parts.shape[1]:
            seen = parts[row, column] == part.number and near > _HIDDEN
            keypoints[i] = x, y, 2 if seen else 1
    box = left, top, right - left, bottom - top
    return THINGS.index(part.label), box, visible, keypoints


def lit(canvas, rng, domain):
    """The picture in the light of the domain, with noise, in its own size."""
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
