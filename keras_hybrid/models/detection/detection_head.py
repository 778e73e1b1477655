"""Everything in a detector after its backbone."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_hybrid.models.detection import anchors as anchors_lib
from keras_hybrid.models.detection.batched_gather import batched_gather
from keras_hybrid.models.detection.box_head import BoxHead
from keras_hybrid.models.detection.feature_pyramid import FeaturePyramid
from keras_hybrid.models.detection.nms import class_offsets, non_max_suppression
from keras_hybrid.models.detection.proposals import Proposals, decode, propose
from keras_hybrid.models.detection.roi_align import pyramid_roi_align
from keras_hybrid.models.detection.rpn import RegionProposalNetwork
from keras_hybrid.training.types import Tensor

DETECTIONS = 100
"""Largest number of boxes detected in an image."""
RPN_VARIANCE = 1.0, 1.0, 1.0, 1.0
"""Divisors of the anchors' deltas, see `proposals.decode`."""
BOX_VARIANCE = 0.1, 0.1, 0.2, 0.2
"""Divisors of the proposals' deltas."""

# As in torchvision, except for the number of proposals, which is 1000 or 2000 there.
_PRE_NMS_TOPK, _PROPOSALS, _PROPOSAL_NMS_IOU = 1000, 300, 0.7
_SCORE_THRESHOLD, _NMS_IOU = 0.05, 0.5
_POOLED = 7


@keras.saving.register_keras_serializable("keras_hybrid")
class DetectionHead(keras.layers.Layer):
    """Everything after the backbone, for feature maps in order of increasing stride.

    Args:
        num_classes, feature_strides, anchor_heights, height_per_width, channels, units:
            As for `FasterRCNN`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        feature_strides: Sequence[int],
        anchor_heights: Sequence[float],
        height_per_width: float,
        channels: int,
        units: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.settings = {
            "num_classes": num_classes,
            "feature_strides": tuple(feature_strides),
            "anchor_heights": tuple(anchor_heights),
            "height_per_width": height_per_width,
            "channels": channels,
            "units": units,
        }
        self.strides = tuple(feature_strides)
        self.height_per_width = height_per_width
        self.levels = anchors_lib.heights_by_level(anchor_heights, self.strides)
        self.pyramid = FeaturePyramid(channels, dtype=self.dtype_policy, name="pyramid")
        self.rpn = RegionProposalNetwork(
            [len(heights) for heights in self.levels],
            dtype=self.dtype_policy,
            name="rpn",
        )
        self.box_head = BoxHead(
            num_classes, units, dtype=self.dtype_policy, name="box_head"
        )

    def build(self, input_shapes: Sequence[Sequence[int | None]]) -> None:
        self.pyramid.build(input_shapes)
        shapes = self.pyramid.compute_output_shape(input_shapes)
        self.rpn.build(shapes)
        self.box_head.build((None, None, _POOLED, _POOLED, shapes[0][-1]))

    def call(
        self, maps: Sequence[Tensor], training: bool | None = None
    ) -> dict[str, Any]:
        """Computes predictions from the backbone's feature maps (B, H, W, C).

        Returns:
            A dictionary with the pyramid's `"maps"`, and `"logits"` (B, A) and `"deltas"`
            (B, A, 4) of all anchors. Outside training it also has the detections:
            `"boxes"` (B, 100, 4) in pixels, [x1, y1, x2, y2], `"scores"` and int32
            `"classes"` (B, 100), best first and 0 after the last, and their number
            `"count"`, int32 (B,).
        """
        # Keras passes a list of one map as that map.
        maps = self.pyramid(keras.tree.flatten(maps))
        logits, deltas = self.rpn(maps)
        y_pred = {"maps": maps, "logits": logits, "deltas": deltas}
        return y_pred if training else {**y_pred, **self._detect(y_pred)}

    def anchors(self, maps: Sequence[Tensor]) -> Tensor:
        """Makes the anchors of feature maps (B, H, W, C): (A, 4) xyxy."""
        sizes = [x.shape[1:3] for x in maps]
        return anchors_lib.anchors_of(
            sizes, self.strides, self.levels, self.height_per_width
        )

    def propose(self, y_pred: Mapping[str, Any]) -> Proposals:
        """Selects the `Proposals` of the first stage from what `call` returns."""
        maps = y_pred["maps"]
        anchors = self.anchors(maps)
        boxes = decode(y_pred["deltas"], anchors, RPN_VARIANCE, self._image_size(maps))
        return propose(
            y_pred["logits"],
            boxes,
            [
                len(heights) * x.shape[1] * x.shape[2]
                for heights, x in zip(self.levels, maps, strict=True)
            ],
            pre_nms_topk=_PRE_NMS_TOPK,
            count=_PROPOSALS,
            iou_threshold=_PROPOSAL_NMS_IOU,
        )

    def classify(self, maps: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Computes logits (B, N, 1 + C) and deltas (B, N, 4) of boxes (B, N, 4) xyxy."""
        return self.box_head(pyramid_roi_align(maps, boxes, self.strides, _POOLED))

    def _image_size(self, maps):
        """(height, width) in pixels that the coarsest map covers, padding included."""
        return tuple(n * self.strides[-1] for n in maps[-1].shape[1:3])

    def _detect(self, y_pred):
        maps = y_pred["maps"]
        proposals = self.propose(y_pred)
        logits, deltas = self.classify(maps, proposals.boxes)
        boxes = decode(deltas, proposals.boxes, BOX_VARIANCE, self._image_size(maps))
        return _suppress(boxes, ops.softmax(logits)[..., 1:], proposals.valid)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.settings}


def detections_of(y_pred: Mapping[str, Any]) -> dict[str, Tensor]:
    """Selects `"boxes"`, `"scores"`, `"classes"` and `"count"` from predictions."""
    return {name: y_pred[name] for name in ("boxes", "scores", "classes", "count")}


def _suppress(boxes, probabilities, valid):
    """Selects the best detections, with a suppression per class.

    Args:
        boxes: Refined proposals (B, P, 4) xyxy.
        probabilities: (B, P, C), without the background.
        valid: bool (B, P), which boxes are proposals.
    """
    count, num_classes = probabilities.shape[1:]
    passes = ops.expand_dims(valid, -1) & (probabilities >= _SCORE_THRESHOLD)
    scores = ops.reshape(ops.where(passes, probabilities, 0.0), (-1, count * num_classes))
    scores, best = ops.top_k(scores, count * num_classes)
    boxes = batched_gather(boxes, best // num_classes)
    classes = 1 + ops.cast(best % num_classes, "int32")
    indices, kept = non_max_suppression(
        class_offsets(boxes, classes), scores > 0, DETECTIONS, _NMS_IOU
    )
    return {
        "boxes": ops.where(
            ops.expand_dims(kept, -1), batched_gather(boxes, indices), 0.0
        ),
        "scores": ops.where(kept, batched_gather(scores, indices), 0.0),
        "classes": ops.where(kept, batched_gather(classes, indices), 0),
        "count": ops.sum(ops.cast(kept, "int32"), axis=1),
    }
