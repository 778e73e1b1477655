"""Faster R-CNN (Ren et al. 2015) with a feature pyramid (Lin et al. 2017)."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_hybrid.hybrid.stages import find_stages
from keras_hybrid.models.detection import anchors as anchors_lib
from keras_hybrid.models.detection import losses as losses
from keras_hybrid.models.detection.batched_gather import batched_gather
from keras_hybrid.models.detection.detection_head import (
    BOX_VARIANCE,
    RPN_VARIANCE,
    DetectionHead,
    detections_of,
)
from keras_hybrid.models.detection.proposals import encode
from keras_hybrid.models.detection.targets import assign, sample
from keras_hybrid.training.gradient_step import GradientStep
from keras_hybrid.training.multi_worker import MultiWorkerFit
from keras_hybrid.training.types import Tensor

# As in torchvision, except for the number of proposals, which is 512 there.
_ANCHORS_SAMPLED, _ANCHORS_POSITIVE = 256, 0.5
_PROPOSALS_SAMPLED, _PROPOSALS_POSITIVE = 128, 0.25


@keras.saving.register_keras_serializable("keras_hybrid")
class FasterRCNN(GradientStep, MultiWorkerFit, keras.Model):
    """Detects objects of one aspect ratio, such as pedestrians, at all sizes.

    A `keras.Model` with a `.backbone`, a `.head` and its own loss: it can be trained by
    `fit`, and as the student of `HybridTransfer`.

    Example:

    >>> backbone = keras_hybrid.applications.load("MobileNet")
    >>> detector = FasterRCNN(backbone)
    >>> detector.compile("sgd")
    >>> detector.fit(images, {"boxes": boxes, "labels": labels})
    >>> detector.predict(images)["scores"].shape  # best first, 0 where there is no box
    (8, 100)

    Ground truth: `"boxes"` (B, G, 4), [x1, y1, x2, y2] in pixels of the images that the
    model is given; `"labels"`, int (B, G), 1 to num_classes, -1 for ignore regions, 0 for
    padding.

    Args:
        backbone: Functional model that takes images (B, H, W, 3), without a top, with
            stages of the given strides. It is shared, not copied.
        num_classes: Number of classes without the background.
        feature_strides: Strides of the feature maps on which to detect objects. One is
            enough.
        anchor_heights: Heights of the anchors in pixels; each is assigned to the coarsest
            map on which it is at least 12 cells high.
        height_per_width: Aspect ratio of the anchors; 2.44 for pedestrians.
        channels: Number of channels of the feature pyramid.
        units: Units of the two dense layers that classify proposals.
        name: Name of the model.

    Raises:
        ValueError: `backbone` has no stage of a stride or is nested, or a feature map has
            no anchor.
    """

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int = 1,
        *,
        feature_strides: Sequence[int] = (8, 16, 32),
        anchor_heights: Sequence[float] = anchors_lib.HEIGHTS,
        height_per_width: float = anchors_lib.HEIGHT_PER_WIDTH,
        channels: int = 256,
        units: int = 1024,
        name: str = "faster_rcnn",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.backbone = _with_maps(backbone, feature_strides)
        self.head = DetectionHead(
            num_classes,
            feature_strides=feature_strides,
            anchor_heights=anchor_heights,
            height_per_width=height_per_width,
            channels=channels,
            units=units,
            dtype=self.dtype_policy,
            name="head",
        )
        self.head.build([x.shape for x in keras.tree.flatten(self.backbone.output)])
        self.random_boxes = keras.random.SeedGenerator()
        self.built = True

    def call(self, images: Tensor, training: bool | None = None) -> dict[str, Any]:
        """Computes what `DetectionHead` returns for images (B, H, W, 3)."""
        return self.head(self.backbone(images, training=training), training=training)

    def predict_step(self, *args: Any) -> Any:
        """Predicts `"boxes"`, `"scores"`, `"classes"` and `"count"` alone."""
        if keras.backend.backend() == "jax":
            y_pred, state = super().predict_step(*args)
            return detections_of(y_pred), state
        return detections_of(super().predict_step(*args))

    def export(
        self,
        filepath: str | os.PathLike,
        *args: Any,
        input_signature: Sequence[keras.InputSpec] | None = None,
        **kwargs: Any,
    ) -> None:
        """Exports a network that detects objects in one image of a fixed size.

        Args:
            filepath, *args, **kwargs: As for `keras.Model.export`.
            input_signature: `[keras.InputSpec(shape=(1, height, width, 3))]`; may be None
                if the backbone has a fixed size.

        Raises:
            ValueError: The size is not known.
        """
        (image,) = keras.tree.flatten(input_signature or self.backbone.inputs)
        if None in image.shape[1:3]:
            raise ValueError(
                "`input_signature` must give the height and width of the images, which "
                f"{self.name!r} takes at any size, as in `input_signature="
                "[keras.InputSpec(shape=(1, 512, 1024, 3))]`. Received: "
                f"input_signature={input_signature}"
            )
        detector = with_detections(self, *image.shape[1:3])
        spec = keras.InputSpec(shape=detector.input_shape, dtype="float32", name="image")
        detector.export(filepath, *args, input_signature=[spec], **kwargs)

    def compute_loss(
        self,
        x: Any = None,
        y: Mapping[str, Tensor] | None = None,
        y_pred: Mapping[str, Any] | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """Computes the sum of the four losses, without regularisation.

        Args:
            x: Unused.
            y: Ground truth, `"boxes"` (B, G, 4) and `"labels"` (B, G).
            y_pred: Predictions that `call` returned.
            sample_weight: Weights of the images (B,).
            training: Unused.

        Returns:
            A float32 scalar.
        """
        # Pad by one more box, since a batch may have none at all.
        gt_boxes = ops.pad(ops.cast(y["boxes"], "float32"), ((0, 0), (0, 1), (0, 0)))
        gt_labels = ops.pad(ops.cast(y["labels"], "int32"), ((0, 0), (0, 1)))
        loss = self._rpn_loss(y_pred, gt_boxes, gt_labels)
        loss += self._box_loss(y_pred, gt_boxes, gt_labels)
        if sample_weight is not None:
            loss *= ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        loss = ops.mean(loss)
        if keras.backend.backend() != "tensorflow":
            return loss
        # Keras sums the losses of the replicas.
        return loss / self.distribute_strategy.num_replicas_in_sync

    def _rpn_loss(self, y_pred, gt_boxes, gt_labels):
        anchors = self.head.anchors(y_pred["maps"])
        targets = assign(
            anchors,
            gt_boxes,
            gt_labels,
            foreground_iou=0.7,
            background_iou=0.3,
            keep_best=True,
        )
        indices, sampled = sample(
            targets.labels, _ANCHORS_SAMPLED, _ANCHORS_POSITIVE, self.random_boxes
        )
        labels = batched_gather(targets.labels, indices)
        logits = batched_gather(y_pred["logits"], indices)
        anchors = ops.take(anchors, indices, axis=0)
        matched = batched_gather(targets.boxes, indices)
        target_deltas = encode(anchors, matched, RPN_VARIANCE)
        deltas = batched_gather(y_pred["deltas"], indices)
        return losses.objectness_loss(logits, labels, sampled) + losses.delta_loss(
            deltas, target_deltas, labels, sampled
        )

    def _box_loss(self, y_pred, gt_boxes, gt_labels):
        proposals = self.head.propose(y_pred)
        # With the ground truth among them there are good proposals from the start.
        boxes = ops.stop_gradient(ops.concatenate([proposals.boxes, gt_boxes], axis=1))
        valid = ops.concatenate([proposals.valid, gt_labels > 0], axis=1)
        targets = assign(
            boxes, gt_boxes, gt_labels, foreground_iou=0.5, background_iou=0.5
        )
        labels = ops.where(valid, targets.labels, -1)
        indices, sampled = sample(
            labels, _PROPOSALS_SAMPLED, _PROPOSALS_POSITIVE, self.random_boxes
        )
        labels = batched_gather(labels, indices)
        boxes = batched_gather(boxes, indices)
        logits, deltas = self.head.classify(y_pred["maps"], boxes)
        matched = batched_gather(targets.boxes, indices)
        target_deltas = encode(boxes, matched, BOX_VARIANCE)
        return losses.class_loss(logits, labels, sampled) + losses.delta_loss(
            deltas, target_deltas, labels, sampled
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "name": self.name,
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            **self.head.settings,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        backbone = keras.saving.deserialize_keras_object(
            config["backbone"], custom_objects=custom_objects
        )
        return cls(**{**config, "backbone": backbone})


def with_detections(detector: FasterRCNN, height: int, width: int) -> keras.Model:
    """Returns a model that predicts the detections alone for one image of a fixed size.

    Exports need it: it has no loop over images, and all its operators are built into
    LiteRT.
    """
    image = keras.Input(batch_shape=(1, height, width, 3), name="image")
    y_pred = detector.head(detector.backbone(image))
    return keras.Model(image, detections_of(y_pred), name=detector.name)


def _with_maps(backbone, strides):
    """A model of the same layers that returns the list of feature maps of the strides."""
    if isinstance(backbone.output, list):
        return backbone
    stages = {stage.stride: stage.layer_name for stage in find_stages(backbone)}
    missing = [stride for stride in strides if stride not in stages]
    if missing or list(strides) != sorted(set(strides)):
        raise ValueError(
            f"`feature_strides` must rise and be strides of {backbone.name!r}, which has "
            f"{sorted(stages)}. Received: feature_strides={tuple(strides)}"
        )
    nested = [stages[stride] for stride in strides if "/" in stages[stride]]
    if nested:
        raise ValueError(
            "`backbone` must be flat: its feature maps cannot be inside another model. "
            f"Received: backbone={backbone.name!r} with {nested}"
        )
    maps = [backbone.get_layer(stages[stride]).output for stride in strides]
    return keras.Model(backbone.input, maps, name=backbone.name)
