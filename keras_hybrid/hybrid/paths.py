"""The three paths of a batch through the two networks to the student's head.

plain          S1 S2 S3 S4 S5 -> head
student_first  S1 T2 S3 T4 S5 -> head
teacher_first  T1 S2 T3 S4 T5 -> head
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_hybrid.hybrid import adapters
from keras_hybrid.hybrid import graph as graph_lib
from keras_hybrid.hybrid.adapters import Adapter
from keras_hybrid.hybrid.cuts import Cut, inner_cut
from keras_hybrid.hybrid.stages import Network, has_backbone
from keras_hybrid.training.types import Tensor

TEACHER, STUDENT = "teacher", "student"
STUDENT_FIRST, TEACHER_FIRST, PLAIN = "student_first", "teacher_first", "plain"


class Path:
    """One path from a batch of images to predictions.

    Attributes:
        name: `"student_first"`, `"teacher_first"` or `"plain"`; of several teachers
            `"student_first_1"` and so on.
        owners: Network that runs each segment, e.g. `("student", "teacher")`.
        segments: The `Segment`s, in order.
        adapters: The adapters, in order.
        weighted_layers: Number of convolutions and dense layers on the longest route
            through the path, without adapters (as the paper counts, Fig. 6).
    """

    def __init__(
        self,
        name: str,
        segments: Iterable["Segment"],
        head: "Head",
        teacher_preprocessing: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.name = name
        self.segments = tuple(segments)
        self.head = head
        self.teacher_preprocessing = teacher_preprocessing

    @property
    def owners(self) -> tuple[str, ...]:
        return tuple(segment.owner for segment in self.segments)

    @property
    def adapters(self) -> list[keras.layers.Layer]:
        return [adapter for segment in self.segments for adapter in segment.adapters]

    @property
    def weighted_layers(self) -> int:
        segments = self.segments
        stages = sum(s.network.weighted_layers(s.start, s.end) for s in segments)
        return stages + self.head.weighted_layers

    def __call__(self, x: Tensor, training: bool = False) -> Any:
        """Returns predictions for images (B, H, W, C).

        Segments of the teacher always run in inference mode.
        """
        for segment in self.segments:
            segment.network.model._clear_losses()  # those of the previous call
        inputs = self.inputs(x)
        return self.finish(inputs, self.begin(inputs, training), training)

    def inputs(self, images: Tensor) -> dict[str, Tensor]:
        """Returns what `begin` and `finish` take: owner -> the images that it takes."""
        if TEACHER not in self.owners:
            return {STUDENT: images}
        if self.teacher_preprocessing is None:
            return {STUDENT: images, TEACHER: images}
        return {STUDENT: images, TEACHER: self.teacher_preprocessing(images)}

    def begins_as(self, other: "Path") -> bool:
        """Whether the first segments of two paths do the same."""
        mine, others = self.segments[0], other.segments[0]
        wanted = [[f.wanted.symbol for f in s.features] for s in (mine, others)]
        same_ends = mine.end.symbol == others.end.symbol and wanted[0] == wanted[1]
        return mine.owner == others.owner == STUDENT and same_ends

    def begin(
        self, inputs: Mapping[str, Tensor], training: bool
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Runs the first segment and returns its results, which `finish` takes.

        Paths whose first segments do the same (`begins_as`) can share them.
        """
        first = self.segments[0]
        x = ops.cast(inputs[first.owner], first.network.graph.input_spec.dtype)
        return first.run(x, _sizes(inputs), training)

    def begun(
        self, inputs: Mapping[str, Tensor], values: Mapping[int, Tensor], training: bool
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Returns what `begin` does, of the tensors `values` of a run of its network."""
        return self.segments[0].results(values, _sizes(inputs), training)

    def finish(
        self,
        inputs: Mapping[str, Tensor],
        begun: tuple[Tensor, Mapping[int, Tensor]],
        training: bool,
    ) -> Any:
        """Runs the other segments and the head; returns the predictions."""
        x, sizes = begun[0], _sizes(inputs)
        features = self.head.with_images(begun[1], inputs[STUDENT], training)
        for before, segment in itertools.pairwise(self.segments):
            adapted = before.hand_over(x, sizes, training)
            features[before.student_end.symbol] = (
                x if before.owner == STUDENT else adapted
            )
            x, more = segment.run(adapted, sizes, training)
            features.update(more)
        last = self.segments[-1]
        features[last.student_end.symbol] = last.hand_over(x, sizes, training)
        return self.head(features, training)

    def __repr__(self):
        return f"<Path {self.name}: {', '.join(self.owners)}>"


def _sizes(inputs):
    """Owner -> (height, width) of the images that it sees: integers where static."""
    return {owner: tuple(ops.shape(x)[1:3]) for owner, x in inputs.items()}


@dataclasses.dataclass(frozen=True)
class Segment:
    """The part of one network between two points at which a path may change network.

    Attributes:
        owner: `"teacher"` or `"student"`, the role of `network`.
        network: The network that runs.
        start, end: Cuts of this network at the two ends.
        student_end: Cut of the student at the end.
        target: Cut of the other network at the end, or None if the path does not change
            network there.
        adapter: Adapter from `end` to `target`, or None.
        features: Maps inside the segment that the student's head needs.
    """

    owner: str
    network: Network
    start: Cut
    end: Cut
    student_end: Cut
    target: Cut | None
    adapter: keras.layers.Layer | None
    features: tuple["Feature", ...]

    def run(
        self, x: Tensor, sizes: Mapping[str, Sequence[int | Tensor]], training: bool
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Runs the network from `start` to `end`.

        Args:
            x: The map at `start` (B, H, W, C).
            sizes: Owner -> (height, width) of the images.
            training: Whether the student and the adapters train.

        Returns:
            The map at `end`, and the maps for the student's head by symbol.
        """
        values = {self.start.symbol: x}
        wanted = {self.end.symbol, *(feature.found.symbol for feature in self.features)}
        self.network.run(
            values,
            self.start.position,
            self.end.position,
            training=training and self.owner == STUDENT,
            wanted=wanted if self.owner == TEACHER else None,
        )
        return self.results(values, sizes, training)

    def results(
        self,
        values: Mapping[int, Tensor],
        sizes: Mapping[str, Sequence[int | Tensor]],
        training: bool,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Returns what `run` does, of the network's tensors by symbol."""
        return values[self.end.symbol], {
            feature.wanted.symbol: feature(values, sizes, training)
            for feature in self.features
        }

    def hand_over(
        self, x: Tensor, sizes: Mapping[str, Sequence[int | Tensor]], training: bool
    ) -> Tensor:
        """Adapts the map at `end` to the network that runs next."""
        if self.adapter is None:
            return x
        other = TEACHER if self.owner == STUDENT else STUDENT
        source = self.end, sizes[self.owner]
        target: Any = (self.target, sizes[other])
        return adapters.run(self.adapter, x, source, target, training)

    @property
    def adapters(self) -> list[keras.layers.Layer]:
        inner = [feature.adapter for feature in self.features if feature.adapter]
        return inner + ([self.adapter] if self.adapter else [])


@dataclasses.dataclass(frozen=True)
class Feature:
    """A map inside a segment that the student's head needs.

    Attributes:
        wanted: Cut of the student that the head takes.
        found: Cut of the network that runs the segment: `wanted` itself for the student.
        adapter: Adapter from the teacher's to the student's channels, or None for the
            student.
    """

    wanted: Cut
    found: Cut
    adapter: keras.layers.Layer | None

    def __call__(
        self,
        values: Mapping[int, Tensor],
        sizes: Mapping[str, Sequence[int | Tensor]],
        training: bool,
    ) -> Tensor:
        x = values[self.found.symbol]
        if self.adapter is None:
            return x
        ends = (self.found, sizes[TEACHER]), (self.wanted, sizes[STUDENT])
        return adapters.run(self.adapter, x, *ends, training)


class Head:
    """The part of the student after the joint, where all paths meet.

    Attributes:
        features: Symbols of the student's maps that it takes, including the joint's.
        wanted: The same maps as `Cut`s.
        weighted_layers: Number of weighted layers on the longest route from the joint to
            an output of the graph, plus all those of the student's `.head`, if any.
    """

    def __init__(self, student: Network, joint: Cut) -> None:
        self.graph = student.graph
        self.joint = joint
        self.module = student.model.head if has_backbone(student.model) else None
        steps = self.graph.steps[joint.position :]
        made = {symbol for step in steps for symbol in step.outputs}
        taken = {symbol for step in steps for symbol in step.inputs.values()}
        self.features = taken.union(self.graph.outputs) - made
        self.wanted = _wanted_cuts(student, joint, self.features)
        self._from_image = [cut for cut in self.wanted if not cut.is_weighted]

    def with_images(
        self, features: Mapping[int, Tensor], images: Tensor, training: bool
    ) -> dict[int, Tensor]:
        """Adds the maps that come of the images without weights, or are the images."""
        missing = [cut for cut in self._from_image if cut.symbol not in features]
        if not missing:
            return dict(features)
        values = {self.graph.input: ops.cast(images, self.graph.input_spec.dtype)}
        self.graph.run(values, 0, max(cut.position for cut in missing), training)
        return {**features, **{cut.symbol: values[cut.symbol] for cut in missing}}

    def takes_prefix_only(self) -> bool:
        """Whether it takes only the joint's prefix tokens, such as a class token.

        It runs on two sequences that differ in all other tokens.
        """
        if not self.joint.prefix or self.module or self.features != {self.joint.symbol}:
            return False
        count = self.joint.spec.shape[1] or self.joint.prefix + 16
        tokens = np.random.default_rng(0).normal(size=(2, 1, count, self.joint.channels))
        tokens[:, :, : self.joint.prefix] = 1.0
        outputs = [
            self({self.joint.symbol: ops.cast(x, self.joint.spec.dtype)}, training=False)
            for x in tokens
        ]
        first, second = (
            [ops.convert_to_numpy(x) for x in keras.tree.flatten(y)] for y in outputs
        )
        return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))

    def __call__(self, features: Mapping[int, Tensor], training: bool) -> Any:
        values = dict(features)
        self.graph.run(values, self.joint.position, None, training)
        outputs = self.graph.pack([values[symbol] for symbol in self.graph.outputs])
        return outputs if self.module is None else self.module(outputs, training=training)

    @property
    def weighted_layers(self) -> int:
        joint = self.joint
        own = max(
            self.graph.weighted_layers(joint.position, None, joint.symbol, output)
            for output in self.graph.outputs
        )
        return own + (graph_lib.count_kernels(self.module) if self.module else 0)


def build_paths(
    teacher: Network,
    student: Network,
    switches: Sequence[tuple[Cut, Cut]],
    dtype: keras.DTypePolicy,
    teacher_preprocessing: Callable[[Tensor], Tensor] | None = None,
    adapter: Callable[..., keras.layers.Layer] = Adapter,
    suffix: str = "",
) -> tuple[Path, Path, Path]:
    """Builds the paths (student-first, teacher-first, plain) with their adapters.

    Args:
        teacher, student: The two `Network`s.
        switches: Pairs (teacher's cut, student's cut), the joint last.
        dtype: Dtype policy of the adapters.
        teacher_preprocessing: Function applied to the images before the teacher, or
            None.
        adapter: Class or function that makes an adapter, see `HybridTransfer`.
        suffix: What the names of the hybrid paths end in.

    Raises:
        ValueError: The student's head needs a map that a path does not have.
        TypeError, ValueError: `adapter` does not make a layer that fits.
    """
    head = Head(student, switches[-1][1])

    def new_adapter(name, source, target):
        same_size = (source.height, source.width) == (target.height, target.width)
        resizes = teacher_preprocessing is not None or not same_size
        return adapters.make(adapter, source, target, resizes, dtype, name)

    def new_path(name, *owners):
        owners = [owners[i % 2] for i in range(len(switches))]
        segments = _segments(
            name, owners, teacher, student, switches, head.wanted, new_adapter
        )
        return Path(name, segments, head, teacher_preprocessing)

    return (
        new_path(STUDENT_FIRST + suffix, STUDENT, TEACHER),
        new_path(TEACHER_FIRST + suffix, TEACHER, STUDENT),
        new_path(PLAIN, STUDENT, STUDENT),
    )


def _segments(name, owners, teacher, student, switches, wanted, new_adapter):
    networks = {TEACHER: teacher, STUDENT: student}
    starts = {TEACHER: teacher.start, STUDENT: student.start}
    for i, (owner, switch) in enumerate(zip(owners, switches, strict=True), start=1):
        ends = dict(zip((TEACHER, STUDENT), switch, strict=True))
        following = owners[i] if i < len(owners) else STUDENT
        features = []
        for cut in wanted:
            # A layer may return the map at the end and, at the same position, a skip.
            from_here = starts[STUDENT].position < cut.position <= ends[STUDENT].position
            inside = from_here and cut.symbol != ends[STUDENT].symbol
            if inside and owner == STUDENT:
                features.append(Feature(cut, cut, adapter=None))
            elif inside and cut.is_weighted:
                found = _counterpart(cut, teacher, starts, ends)
                label = f"{name}_feature_adapter_{cut.stride}"
                again = sum(f.wanted.stride == cut.stride for f in features)
                label += f"_{again + 1}" if again else ""
                features.append(Feature(cut, found, new_adapter(label, found, cut)))
        changes = following != owner
        label = f"{name}_adapter_{i}"
        yield Segment(
            owner=owner,
            network=networks[owner],
            start=starts[owner],
            end=ends[owner],
            student_end=ends[STUDENT],
            target=ends[following] if changes else None,
            adapter=new_adapter(label, ends[owner], ends[following]) if changes else None,
            features=tuple(features),
        )
        starts = ends


def _wanted_cuts(student, joint, features):
    """The student's maps from before the joint that its head takes, as cuts.

    They may lie inside of a stage, where other tensors bypass them.
    """
    graph = student.graph
    cuts = [student.start, *(c for c in student.cuts if c.position <= joint.position)]
    known = {cut.symbol: cut for cut in cuts}
    for i, step in enumerate(graph.steps[: joint.position]):
        before = max((c for c in cuts if c.position <= i), key=lambda c: c.position)
        for symbol in features.intersection(step.outputs).difference(known):
            known[symbol] = inner_cut(graph, before, symbol)
            if known[symbol] is None:
                raise ValueError(
                    "The student's head must take feature maps (B, H, W, C) from before "
                    f"the joint ({joint.layer_name!r}). Received: "
                    f"student={student.model.name!r}, whose head takes the output of "
                    f"{step.name!r}"
                )
    return [known[symbol] for symbol in sorted(features)]


def _counterpart(cut, teacher, starts, ends):
    """The end of the teacher's stage in a segment whose stride is nearest to a cut's."""
    inside = [
        found
        for found in (*teacher.stage_cuts, ends[TEACHER])
        if starts[TEACHER].position < found.position <= ends[TEACHER].position
    ]
    return min(inside, key=lambda found: abs(math.log(found.stride / cut.stride)))
