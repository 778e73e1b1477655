"""The points at which a path changes network, and the joint where all paths meet."""

import itertools
import warnings
from collections.abc import Sequence

from keras_hybrid.hybrid.cuts import Cut
from keras_hybrid.hybrid.stages import Network

# A larger ratio between the strides of neighbouring points leaves most of a network in
# one segment: NASNet, whose cells take the outputs of the two cells before, can be cut
# at the strides 2 and 32 only.
_WIDEST_GAP = 4


def resolve(
    teacher: Network,
    student: Network,
    switch_points: Sequence[int] | Sequence[tuple[str, str]] | None,
) -> list[tuple[Cut, Cut]]:
    """Returns pairs of cuts (teacher's, student's), shallowest first, the joint last.

    Args:
        teacher, student: The two `Network`s.
        switch_points: None for every stride that both have; a tuple of strides before
            the joint, such as `(2, 8, 16)`; or a list of (teacher layer, student layer)
            names, the joint last.

    Raises:
        ValueError: The networks have fewer than two strides in common, or
            `switch_points` is none of the above.
    """
    if _are_pairs(switch_points):
        return _by_name(teacher, student, switch_points)
    pairs, strides = _pairs(teacher, student), common_strides(teacher, student)
    if len(pairs) < 2:
        raise ValueError(
            "`teacher` and `student` must have stages of two strides in common: one at "
            "which paths change network, and one at which they enter the student's "
            f"head. Received: common strides {strides}\n"
            f"{stage_table('teacher', teacher)}\n{stage_table('student', student)}"
        )
    if switch_points is None:
        _warn_of_gaps(teacher, student, strides)
        return pairs
    by_stride = dict(zip(strides, pairs, strict=True))
    before_joint = _checked_strides(switch_points, strides)
    return [*(by_stride[stride] for stride in before_joint), pairs[-1]]


def common_strides(teacher: Network, student: Network) -> list[int]:
    """Returns the strides at which paths can change network, the joint's last.

    Where stages pair up in order, these are the strides of the student, or of the teacher
    if the student has a single one.
    """
    pairs = _pairs(teacher, student)
    of_teacher, of_student = [t.stride for t, _ in pairs], [s.stride for _, s in pairs]
    return of_teacher if len(set(of_student)) < len(pairs) else of_student


def _pairs(teacher, student):
    """Pairs of cuts (teacher's, student's) that end a stage.

    Those of equal strides or, if either network has several stages of one stride as a ViT
    has, the last ones in order.
    """
    both = teacher.stage_cuts, student.stage_cuts
    if any(len({cut.stride for cut in cuts}) < len(cuts) for cuts in both):
        count = min(map(len, both))
        return list(zip(*(cuts[len(cuts) - count :] for cuts in both), strict=True))
    of_teacher = {cut.stride: cut for cut in teacher.stage_cuts}
    return [(of_teacher[s.stride], s) for s in both[1] if s.stride in of_teacher]


def stage_table(title: str, network: Network) -> str:
    """Formats the stages of a network as text, one line each."""
    name = f"{title} {network.model.name!r}:"
    rows = [
        f"  {cut.stride:>6}  {cut.channels:>8}  {cut.layer_name}{_tokens(cut)}"
        for cut in network.stage_cuts
    ]
    lines = [name, "  stride  channels  ends at", *rows] if rows else [f"{name} none"]
    if network.obstacle:
        lines.append(f"  It can hardly be cut: {network.obstacle}.")
    return "\n".join(lines)


def _tokens(cut):
    if cut.prefix is None:
        return ""
    return f" (tokens, {cut.prefix} in front)" if cut.prefix else " (tokens)"


def are_strides(switch_points: object) -> bool:
    """Whether `switch_points` are numbers, which they can be for all teachers at once."""
    return isinstance(switch_points, list | tuple) and all(
        isinstance(point, int) for point in switch_points
    )


def _are_pairs(switch_points):
    return isinstance(switch_points, list | tuple) and any(
        isinstance(point, list | tuple) for point in switch_points
    )


def _checked_strides(switch_points, common):
    joint = common[-1]
    if len(set(common)) < len(common):
        raise ValueError(
            "`switch_points` must be pairs of layer names, since both networks have a "
            f"single stride. Received: switch_points={switch_points!r}"
        )
    if isinstance(switch_points, list | tuple) and switch_points:
        strides = list(switch_points)
        if set(strides) <= set(common[:-1]) and sorted(set(strides)) == strides:
            return strides
    raise ValueError(
        f"`switch_points` must be increasing strides out of {tuple(common[:-1])} (those "
        f"that both networks have before the joint at {joint}), or pairs of layer names. "
        f"Received: switch_points={switch_points!r}"
    )


def _by_name(teacher, student, pairs):
    for pair in pairs:
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            raise ValueError(
                "`switch_points` must be strides, or pairs (teacher layer, student "
                f"layer). Received: switch_points={pairs!r}"
            )
    if len(pairs) < 2:
        raise ValueError(
            "`switch_points` must have a pair at which paths change network and, last, "
            f"the pair of the joint. Received: switch_points={pairs!r}"
        )
    cuts, positions = [], (0, 0)
    for of_teacher, of_student in pairs:
        pair = (
            _cut_at(teacher, "teacher", of_teacher, positions[0]),
            _cut_at(student, "student", of_student, positions[1]),
        )
        cuts.append(pair)
        positions = pair[0].position, pair[1].position
    for before, after in itertools.pairwise(cuts):
        if any(b.position <= a.position for a, b in zip(before, after, strict=True)):
            raise ValueError(
                "`switch_points` must go from the input to the output in both networks. "
                f"Received: switch_points={pairs!r}"
            )
    return cuts


def _cut_at(network, role, layer_name, after):
    """The cut at a layer, by its full name or by its name inside a nested model.

    Of several calls of the layer it is the first one after a position, if there is one.
    """
    found = [
        cut
        for cut in network.cuts
        if layer_name in (cut.layer_name, cut.layer_name.rpartition("/")[-1])
    ]
    if found:
        return next((cut for cut in found if cut.position > after), found[0])
    names = {step.name for step in network.graph.steps}
    names |= {name.rpartition("/")[-1] for name in names}
    if layer_name not in names:
        raise ValueError(
            f"`switch_points` must name layers of the {role} {network.model.name!r}. "
            f"Received: {layer_name!r}, which it does not have\n"
            f"{stage_table(role, network)}"
        )
    raise ValueError(
        f"`switch_points` must name places where the {role} {network.model.name!r} "
        f"holds a single map. Received: {layer_name!r}, which other tensors bypass or "
        f"whose output is not a map\n{stage_table(role, network)}"
    )


def _warn_of_gaps(teacher, student, common):
    for above, below in itertools.pairwise(common):
        if below > _WIDEST_GAP * above:
            warnings.warn(
                f"The paths of teacher {teacher.model.name!r} and student "
                f"{student.model.name!r} cannot change network between strides {above} "
                f"and {below}: one of them never narrows to a single map there.",
                stacklevel=4,
            )
