"""The points at which a path changes network, and the joint where all paths meet."""

import warnings
from collections.abc import Sequence

from keras_hybrid.hybrid.stages import Cut, Network

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
    teacher_cuts = {cut.stride: cut for cut in teacher.stage_cuts}
    student_cuts = {cut.stride: cut for cut in student.stage_cuts}
    common = [stride for stride in student_cuts if stride in teacher_cuts]
    if len(common) < 2:
        raise ValueError(
            "`teacher` and `student` must have stages of two strides in common: one at "
            "which paths change network, and one at which they enter the student's "
            f"head. Received: common strides {common}\n"
            f"{stage_table('teacher', teacher)}\n{stage_table('student', student)}"
        )
    if switch_points is None:
        _warn_of_gaps(teacher, student, common)
        strides = common
    else:
        strides = [*_checked_strides(switch_points, common), common[-1]]
    return [(teacher_cuts[stride], student_cuts[stride]) for stride in strides]


def stage_table(title: str, network: Network) -> str:
    """Formats the stages of a network as text, one line each."""
    rows = [f"  {s.stride:>6}  {s.channels:>8}  {s.layer_name}" for s in network.stages]
    heading = f"{title} {network.model.name!r}:\n  stride  channels  ends at"
    return (
        "\n".join([heading, *rows]) if rows else f"{title} {network.model.name!r}: none"
    )


def _are_pairs(switch_points):
    return isinstance(switch_points, list | tuple) and any(
        isinstance(point, list | tuple) for point in switch_points
    )


def _checked_strides(switch_points, common):
    joint = common[-1]
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
    cuts = [
        (_cut_at(teacher, "teacher", t), _cut_at(student, "student", s)) for t, s in pairs
    ]
    for before, after in zip(cuts, cuts[1:], strict=False):
        if any(a.position <= b.position for b, a in zip(before, after, strict=True)):
            raise ValueError(
                "`switch_points` must go from the input to the output in both networks. "
                f"Received: switch_points={pairs!r}"
            )
    return cuts


def _cut_at(network, role, layer_name):
    """The cut at a layer, by its full name or by its name inside a nested model."""
    for cut in network.cuts:
        if layer_name in (cut.layer_name, cut.layer_name.rpartition("/")[-1]):
            return cut
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
    for above, below in zip(common, common[1:], strict=False):
        if below > _WIDEST_GAP * above:
            warnings.warn(
                f"The paths of teacher {teacher.model.name!r} and student "
                f"{student.model.name!r} cannot change network between strides {above} "
                f"and {below}: one of them never narrows to a single map there.",
                stacklevel=4,
            )
