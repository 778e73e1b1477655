"""People: the joints of a body in space, and how to render them from a viewpoint.

A joint is (to the person's left, up, forward) from the foot, in metres.
"""

from collections.abc import Mapping

import numpy as np

from keras_hybrid.data.streets.canvas import Pen, colour

# In COCO's order.
KEYPOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
    *("left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
_SIDES = "left", "right"


def walking(
    rng: np.random.Generator, height: float
) -> dict[str, tuple[float, float, float]]:
    """Samples the joints of a pedestrian of a height in metres, by name."""
    swing, bend = rng.uniform(-0.45, 0.45), rng.uniform(0.05, 0.5)
    joints = {"hips": (0, 0.52, 0), **_head(0.0)}
    for side, sign in zip(_SIDES, (1, -1)):
        leg, arm = sign * swing, -sign * swing * rng.uniform(0.5, 1.2)
        back = bend if leg < 0 else 0.05
        hip, shoulder = (0.055 * sign, 0.52, 0.0), (0.115 * sign, 0.82, 0.0)
        knee = _below(hip, 0.245, leg)
        elbow = _below(shoulder, 0.18, arm, sign * rng.uniform(0.01, 0.05))
        joints[f"{side}_hip"], joints[f"{side}_shoulder"] = hip, shoulder
        joints[f"{side}_knee"], joints[f"{side}_elbow"] = knee, elbow
        joints[f"{side}_ankle"] = _below(knee, 0.235, leg - back)
        joints[f"{side}_wrist"] = _below(elbow, 0.16, arm + rng.uniform(0.0, 0.9))
    lowest = min(joints["left_ankle"][1], joints["right_ankle"][1]) - 0.03
    return {
        name: (height * x, height * (y - lowest), height * z)
        for name, (x, y, z) in joints.items()
    }


def riding(rng: np.random.Generator) -> dict[str, tuple[float, float, float]]:
    """Samples the joints of a cyclist, by name; the foot is the bicycle's middle."""
    lean, turn = rng.uniform(0.12, 0.3), rng.uniform(0, 2 * np.pi)
    joints = {"hips": (0, 0.98, -0.2)}
    head = {
        name: (1.75 * x, 1.75 * (y - 0.82) + 1.43, 1.75 * z + lean - 0.15)
        for name, (x, y, z) in _head(0.02).items()
    }
    for side, sign in zip(_SIDES, (1, -1)):
        pedal = 0.17 * np.cos(turn) * sign, 0.17 * np.sin(turn) * sign
        joints[f"{side}_hip"] = 0.1 * sign, 0.98, -0.2
        joints[f"{side}_knee"] = 0.12 * sign, 0.68 + 0.6 * pedal[1], 0.22 + 0.3 * pedal[0]
        joints[f"{side}_ankle"] = 0.1 * sign, 0.32 + pedal[1], pedal[0] - 0.03
        joints[f"{side}_shoulder"] = 0.2 * sign, 1.43, lean - 0.15
        joints[f"{side}_elbow"] = 0.24 * sign, 1.2, lean + 0.08
        joints[f"{side}_wrist"] = 0.22 * sign, 1.06, 0.36
    return {**joints, **head}


def _head(forward):
    """Joints of the head of a body of height 1."""
    head = {
        "head": (0, 0.93, forward),
        "neck": (0, 0.85, forward / 2),
        "nose": (0, 0.92, forward + 0.06),
    }
    for side, sign in zip(_SIDES, (1, -1)):
        head[f"{side}_eye"] = 0.02 * sign, 0.94, forward + 0.05
        head[f"{side}_ear"] = 0.045 * sign, 0.93, forward
    return head


def _below(joint, length, angle, outward=0.0):
    x, y, z = joint
    return x + outward, y - length * np.cos(angle), z + length * np.sin(angle)


def person(
    pen: Pen,
    rng: np.random.Generator,
    joints: Mapping[str, tuple[float, float, float]],
    yaw: float,
) -> list[tuple[float, float, float]]:
    """Draws a body.

    Args:
        pen: Pen at the foot of the person.
        rng: Source of randomness for colours and clothes.
        joints: Joints from `walking` or `riding`.
        yaw: Rotation in radians: 0 faces the viewer, pi / 2 faces right.

    Returns:
        A list of 17 (x, y, near), one for each of `KEYPOINTS`: x and y in pixels, and by
        how many metres the joint is nearer to the viewer than the neck.
    """
    turned = {
        name: (
            left * np.cos(yaw) + forward * np.sin(yaw),
            up,
            forward * np.cos(yaw) - left * np.sin(yaw),
        )
        for name, (left, up, forward) in joints.items()
    }
    at = {name: (x, y) for name, (x, y, _) in turned.items()}
    size = turned["neck"][1] - turned["hips"][1]  # height of the torso
    skin, hair = (
        _skin_colour(rng),
        tuple((rng.uniform(0.1, 1) * np.array((110, 80, 55))).astype(int).tolist()),
    )
    trousers, shirt, shoes = colour(rng, 20, 140), colour(rng), colour(rng, 10, 90)
    sleeve = shirt if rng.random() < 0.7 else skin
    coat = rng.random() < 0.3 and at["left_knee"][1] < 0.65 * at["hips"][1]
    far, near = sorted(_SIDES, key=lambda side: turned[f"{side}_shoulder"][2])

    def arm(side):
        shoulder, elbow, wrist = (
            at[f"{side}_{j}"] for j in ("shoulder", "elbow", "wrist")
        )
        shade = tuple(int(0.85 * c) for c in sleeve)
        pen.limb([shoulder, elbow, wrist], 0.17 * size, shade)
        pen.disc(*wrist, 0.09 * size, skin)

    def leg(side):
        hip, knee, ankle = (at[f"{side}_{j}"] for j in ("hip", "knee", "ankle"))
        shade = trousers if side == near else tuple(int(0.8 * c) for c in trousers)
        pen.limb([hip, knee, ankle], 0.25 * size, shade)
        toe = 0.18 * size * np.sin(yaw)
        pen.limb(
            [
                (ankle[0] - 0.3 * toe, ankle[1] - 0.03),
                (ankle[0] + toe, ankle[1] - 0.06 * size),
            ],
            0.16 * size,
            shoes,
        )

    arm(far)
    leg(far)
    leg(near)
    broad = 0.07 * size + 0.12 * size * abs(np.sin(yaw))  # a chest has depth, too
    left, right = sorted([at["left_shoulder"][0], at["right_shoulder"][0]])
    low_left, low_right = sorted([at["left_hip"][0], at["right_hip"][0]])
    hem = at["hips"][1] - (0.55 if coat else 0.12) * size
    shoulders = at["left_shoulder"][1]
    pen.polygon(
        [
            (low_left - 1.2 * broad, hem),
            (left - broad, shoulders - 0.1 * size),
            (left, shoulders + 0.06 * size),
            (right, shoulders + 0.06 * size),
            (right + broad, shoulders - 0.1 * size),
            (low_right + 1.2 * broad, hem),
        ],
        shirt,
    )
    arm(near)
    pen.limb([at["neck"], at["head"]], 0.2 * size, skin)
    x, y = at["head"]
    pen.disc(x, y, 0.22 * size, hair, narrow=0.85)
    facing = turned["nose"][2] - turned["head"][2]
    if facing > -0.03:
        shift = 0.35 * (at["nose"][0] - x)
        pen.disc(x + shift, y - 0.045 * size, 0.175 * size, skin, narrow=0.8)
    if rng.random() < 0.3:
        bag = colour(rng)
        pen.box(right, at["hips"][1], right + 0.3 * size, at["hips"][1] + 0.4 * size, bag)
    return [(*pen(*at[name]), turned[name][2] - turned["neck"][2]) for name in KEYPOINTS]


def _skin_colour(rng):
    light = rng.uniform(0.35, 1.05)
    return tuple(int(c * light) for c in (222, 178, 148))
