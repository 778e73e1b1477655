"""A baseline's loss beside hybrid forward: `HybridTransfer(..., plus=...)`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_hybrid.baselines.feature_extractor import FeatureExtractor
from keras_hybrid.baselines.logits import logits_of
from keras_hybrid.hybrid.cuts import Cut
from keras_hybrid.hybrid.graph import last_operations
from keras_hybrid.hybrid.stages import Network
from keras_hybrid.training.types import Tensor


class Addition:
    """Runs both networks on the same images and compares what a loss takes of them.

    Args:
        loss: The `TransferLoss`, which is not built yet.
        teacher, student: The two `Network`s.
        switches: Pairs (teacher's cut, student's cut), at which maps are compared.
        preprocess: Function from the student's images to the teacher's; None for equal.

    Attributes:
        of_teacher, of_student: The `FeatureExtractor`s, whose `run` gives what `of`
            takes.
        in_full: The layers of the teacher whose outputs are compared as logits.

    Raises:
        TypeError, ValueError: `loss` cannot compare the two.
    """

    def __init__(
        self,
        loss: Any,
        teacher: Network,
        student: Network,
        switches: Sequence[tuple[Cut, Cut]],
        preprocess: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self._loss = loss
        self._logits, self.in_full = None, []
        cuts: Sequence[Sequence[Cut]] = [*zip(*switches)]
        if loss.takes == "logits":
            self._logits = logits_of(teacher.model, student.model, preprocess)
            self.in_full = last_operations(teacher.model)
            cuts = (), ()
        self.of_teacher = FeatureExtractor(
            teacher,
            cuts[0],
            loss.takes,
            whole=loss.takes == "logits",
            any_size=preprocess is not None,
        )
        self.of_student = FeatureExtractor(student, cuts[1], loss.takes)
        compared = self._logits or (self.of_teacher, self.of_student)
        loss.build(*(each.shapes for each in compared))

    def of(
        self, index: int, values: Mapping[int, Tensor], images: Tensor, y_pred: Any = None
    ) -> list[Tensor]:
        """What is compared of the teacher (0) or the student (1).

        Args:
            index: Which of them.
            values: What its extractor's `run` returned.
            images: The images on which it ran.
            y_pred: Its predictions, if they are known.
        """
        extractor = (self.of_teacher, self.of_student)[index]
        if self._logits is None:
            return extractor.maps(values, images)
        if y_pred is None:
            y_pred = extractor.outputs(values, training=False)
        return self._logits[index].of(y_pred)

    def run_teacher(self, images: Tensor) -> tuple[dict[int, Tensor], list[Tensor]]:
        """Returns all tensors of the teacher for its images, and what is compared."""
        values = self.of_teacher.run(images, training=False)
        return values, self.of(0, values, images)

    def difference(self, teacher: list[Tensor], student: list[Tensor]) -> Tensor:
        """The weighted loss, a scalar."""
        return self._loss(teacher, student)
