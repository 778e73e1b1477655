"""Faster R-CNN (Ren et al. 2015) with a feature pyramid (Lin et al. 2017)."""

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

# As torchvision, but for the number of proposals, which is 512 there.
_ANCHORS_DRAWN, _ANCHORS_POSITIVE = 256, 0.5
_PROPOSALS_DRAWN, _PROPOSALS_POSITIVE = 128, 0.25


@keras.saving.register_keras_serializable("keras_hybrid")
class FasterRCNN(GradientStep, MultiWorkerFit, keras.Model):
    """Finds objects of one shape, such as pedestrians, at all sizes.

    A `keras.Model` with a `.backbone`, a `.head` and its own loss: it trains with `fit`,
    and as a student of `HybridTransfer`.

    Example:

    >>> backbone = keras_hybrid.applications.load("MobileNet")
    >>> detector = FasterRCNN(backbone)
    >>> detector.compile("sgd")
    >>> detector.fit(images, {"boxes": boxes, "labels": labels})
    >>> detector.predict(images)["scores"].shape  # best first, 0 where there is no box
    (8, 100)

    What it learns from: `"boxes"` (B, G, 4), [x1, y1, x2, y2] in pixels of the images as
    they come; `"labels"` int (B, G), 1 .. num_classes, -1 for regions in which nothing is
    asked of it, 0 for padding.

    Args:
        backbone: A Functional network of images (B, H, W, 3), without a top, whose
            stages have the strides. It is shared, not copied.
        num_classes: Without the background.
        feature_strides: Of the maps to look for objects on. One is enough.
        anchor_heights: In pixels; each belongs to the coarsest map on which it is at
            least 12 cells high.
        height_per_width: Shape of the anchors; 2.44 for pedestrians.
        channels: Width of the pyramid.
        units: Of the dense layers for each proposal.
        name: Name of the model.

    Raises:
        ValueError: `backbone` has no stage of a stride or is nested, or a map has no
            anchor.
    """

    def __init__(
        self,
        backbone,
        num_classes=1,
        *,
        feature_strides=(8, 16, 32),
        anchor_heights=anchors_lib.HEIGHTS,
        height_per_width=anchors_lib.HEIGHT_PER_WIDTH,
        channels=256,
        units=1024,
        name="faster_rcnn",
        **kwargs,
    ):
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

    def call(self, images, training=None):
        """Images (B, H, W, 3) to what `DetectionHead` returns."""
        return self.head(self.backbone(images, training=training), training=training)

    def predict_step(self, *args):
        """The detections alone: `"boxes"`, `"scores"`, `"classes"` and `"count"`."""
        if keras.backend.backend() == "jax":
            y_pred, state = super().predict_step(*args)
            return detections_of(y_pred), state
        return detections_of(super().predict_step(*args))

    def export(self, filepath, *args, input_signature=None, **kwargs):
        """Exports what finds the detections in one image of a size.

        Args:
            filepath, *args, **kwargs: As `keras.Model.export` takes them.
            input_signature: `[keras.InputSpec(shape=(1, height, width, 3))]`; None where
                the backbone has a size.

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
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The sum of the four losses, without regularisation.

        Args:
            x: Not looked at.
            y: `"boxes"` (B, G, 4) and `"labels"` (B, G).
            y_pred: What `call` returned.
            sample_weight: Weights of the images (B,).
            training: Not looked at.

        Returns:
            A float32 scalar.
        """
        # One more of padding: a batch may have none at all.
        gt_boxes = ops.pad(ops.cast(y["boxes"], "float32"), ((0, 0), (0, 1), (0, 0)))
        gt_labels = ops.pad(ops.cast(y["labels"], "int32"), ((0, 0), (0, 1)))
        loss = self._rpn_loss(y_pred, gt_boxes, gt_labels)
        loss += self._box_loss(y_pred, gt_boxes, gt_labels)
        if sample_weight is not None:
            loss *= ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        loss = ops.mean(loss)
        if keras.backend.backend() != "tensorflow":
            return loss
        # Keras adds up what the replicas compute.
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
        drawn_boxes, drawn = sample(
            targets.labels, _ANCHORS_DRAWN, _ANCHORS_POSITIVE, self.random_boxes
        )
        labels = batched_gather(targets.labels, drawn_boxes)
        logits = batched_gather(y_pred["logits"], drawn_boxes)
        anchors = ops.take(anchors, drawn_boxes, axis=0)
        wanted = encode(anchors, batched_gather(targets.boxes, drawn_boxes), RPN_VARIANCE)
        deltas = batched_gather(y_pred["deltas"], drawn_boxes)
        return losses.objectness_loss(logits, labels, drawn) + losses.delta_loss(
            deltas, wanted, labels, drawn
        )

    def _box_loss(self, y_pred, gt_boxes, gt_labels):
        proposals = self.head.propose(y_pred)
        # The ground truth is among them, so that there are good ones from the start.
        boxes = ops.stop_gradient(ops.concatenate([proposals.boxes, gt_boxes], axis=1))
        valid = ops.concatenate([proposals.valid, gt_labels > 0], axis=1)
        targets = assign(
            boxes, gt_boxes, gt_labels, foreground_iou=0.5, background_iou=0.5
        )
        labels = ops.where(valid, targets.labels, -1)
        drawn_boxes, drawn = sample(
            labels, _PROPOSALS_DRAWN, _PROPOSALS_POSITIVE, self.random_boxes
        )
        labels = batched_gather(labels, drawn_boxes)
        boxes = batched_gather(boxes, drawn_boxes)
        logits, deltas = self.head.classify(y_pred["maps"], boxes)
        wanted = encode(boxes, batched_gather(targets.boxes, drawn_boxes), BOX_VARIANCE)
        return losses.class_loss(logits, labels, drawn) + losses.delta_loss(
            deltas, wanted, labels, drawn
        )

    def get_config(self):
        return {
            **super().get_config(),
            "name": self.name,
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            **self.head.settings,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        backbone = keras.saving.deserialize_keras_object(
            config["backbone"], custom_objects=custom_objects
        )
        return cls(**{**config, "backbone": backbone})


def with_detections(detector, height, width):
    """The detector for one image of a size, with the detections alone for output.

    Exports need it. There is no loop over images in it, and all its operators are built
    into LiteRT.
    """
    image = keras.Input(batch_shape=(1, height, width, 3), name="image")
    y_pred = detector.head(detector.backbone(image))
    return keras.Model(image, detections_of(y_pred), name=detector.name)


def _with_maps(backbone, strides):
    """A network of the same layers with a list of the maps of the strides for output."""
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
            "`backbone` must be flat: its maps cannot be within another model. Received: "
            f"backbone={backbone.name!r} with {nested}"
        )
    maps = [backbone.get_layer(stages[stride]).output for stride in strides]
    return keras.Model(backbone.input, maps, name=backbone.name)
