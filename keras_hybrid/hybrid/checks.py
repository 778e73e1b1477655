"""Networks, losses and images that cannot be trained with, and why."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.layers.merging.base_merge import Merge
from keras.src.utils.python_utils import is_default

from keras_hybrid.hybrid.cuts import Cut
from keras_hybrid.hybrid.stages import Network, has_backbone
from keras_hybrid.training.gradient_step import GradientStep

UNKNOWN_IMAGE_SIZE = 64
"""Height and width of the images on which a student is tried that takes any."""


def check_pair(teacher: keras.Model, student: keras.Model) -> None:
    """Refuses two models that cannot train together by any method.

    Raises:
        TypeError, ValueError: The message says why.
    """
    for argument, model in (("teacher", teacher), ("student", student)):
        if not isinstance(model, keras.Model):
            raise TypeError(f"`{argument}` must be a keras.Model. Received: {model!r}")
    _check_apart(teacher, student)
    _check_built(teacher, "teacher")
    _check_built(student, "student")
    _check_methods(student)


def _check_apart(teacher, student):
    if teacher is student:
        raise ValueError(
            "`teacher` and `student` must be two models. Received the same one twice: "
            f"{teacher.name!r}. `keras.models.clone_model` makes another."
        )
    shared = {id(w) for w in teacher.weights} & {id(w) for w in student.weights}
    if shared:
        raise ValueError(
            "`teacher` and `student` must not share weights, since the teacher is "
            f"frozen. Received: teacher={teacher.name!r} and student={student.name!r} "
            f"with {len(shared)} weights in common"
        )


def _check_built(model, argument):
    unbuilt = [
        layer.name for layer in model._flatten_layers(False) if _may_lack_weights(layer)
    ]
    if unbuilt:
        raise ValueError(
            f"`{argument}` must be built: call it on a batch of images first. Received: "
            f"{argument}={model.name!r} with the unbuilt layers {unbuilt[:5]}"
        )


def _may_lack_weights(layer):
    """Whether a layer may still have to create weights of its own."""
    none_of_its_own = isinstance(layer, Merge | keras.Sequential)
    return not (layer.built or none_of_its_own or is_default(layer.build))


def _check_methods(student):
    """Refuses a student with its own steps, which would go unused."""
    known = {"train_step": (keras.Model.train_step, GradientStep.train_step)}
    if keras.backend.backend() == "jax":  # a step uses only its own model's variables
        known["test_step"] = (keras.Model.test_step,)
    for name, methods in known.items():
        if getattr(getattr(student, name), "__func__", None) not in methods:
            raise ValueError(
                f"`student` must not have a `{name}` of its own, which would go unused. "
                "Define `compute_loss(x, y, y_pred, sample_weight, training)` instead. "
                f"Received: student={student.name!r} ({type(student).__name__})"
            )


def check_parts(student: keras.Model) -> None:
    """Refuses a student with a backbone but no head, or with layers outside of both.

    Raises:
        ValueError: It is such a student.
    """
    if not has_backbone(student):
        return
    _check_head(student, "student")
    parts = student.backbone, student.head
    weights = {id(w) for part in parts for w in part.trainable_weights}
    others = [
        layer.name
        for layer in student.layers
        if any(id(w) not in weights for w in layer.trainable_weights)
    ]
    if others:
        raise ValueError(
            "`student` must be only its `.head` on the features of its `.backbone`: move "
            f"all other layers into one of the two. Received: student={student.name!r} "
            f"({type(student).__name__}) with {others}"
        )


def _check_head(model, argument):
    if not hasattr(model, "head"):
        raise ValueError(
            f"`{argument}` must have a `.head` that maps the features of its `.backbone` "
            f"to predictions. Received: {argument}={model.name!r} "
            f"({type(model).__name__})"
        )


def check_call(model: keras.Model, argument: str) -> None:
    """Refuses a `call` that does more than run the head on the backbone's features.

    Both run on an image of noise, in inference and in training, and update no variable.
    An image that is too small for the model tells nothing, nor does a random `call`.

    Args:
        model: A model, which passes if it has no backbone.
        argument: Name of the argument, for errors.

    Raises:
        ValueError: There is no head, or the call does more.
    """
    if not has_backbone(model):
        return
    _check_head(model, argument)
    (spec,) = model.backbone.inputs
    shape = [n or UNKNOWN_IMAGE_SIZE for n in spec.shape[1:]]
    image = ops.cast(np.random.default_rng(0).uniform(0, 255, (1, *shape)), spec.dtype)

    def parts(images, training):
        features = model.backbone(images, training=training)
        return model.head(features, training=training)

    for training in (False, True):
        try:
            whole, of_parts = (_outputs_of(f, image, training) for f in (model, parts))
        except Exception:  # whatever a layer raises
            return
        if _are_close(whole, of_parts):
            continue
        if _are_close(whole, _outputs_of(model, image, training)):
            raise ValueError(
                f"`{argument}` must be only its `.head` on the features of its "
                "`.backbone`: move what its `call` does besides into one of the two. "
                f"Received: {argument}={model.name!r} ({type(model).__name__})"
            )


def _outputs_of(function, image, training):
    with keras.StatelessScope():
        outputs = keras.tree.flatten(function(image, training=training))
    return [ops.convert_to_numpy(ops.cast(x, "float32")) for x in outputs]


def _are_close(outputs, others):
    return len(outputs) == len(others) and all(
        a.shape == b.shape and np.allclose(a, b, 1e-2, 1e-2, equal_nan=True)
        for a, b in zip(outputs, others)
    )


def check_reductions(losses: Any) -> None:
    """Refuses compiled losses that give a number for each image.

    Args:
        losses: What was passed to `compile` as `loss`.

    Raises:
        ValueError: A loss has `reduction="none"`.
    """
    for loss in keras.tree.flatten(losses):
        if getattr(loss, "reduction", "sum") in (None, "none"):
            raise ValueError(
                "`loss` must give one number for a batch: leave its `reduction` at the "
                f"default. Received: {loss} with reduction={loss.reduction!r}"
            )


def check_pixels(
    network: Network, size: Sequence[int | None], cuts: Sequence[Cut]
) -> None:
    """Refuses images that leave no pixels at a cut.

    Args:
        network: The network that the images run through.
        size: (height, width) of the images in pixels, None for any.
        cuts: Cuts of the network.

    Raises:
        ValueError: They do.
    """
    for cut in () if None in size else cuts:
        if min(cut.size(size)) < 1:
            raise ValueError(
                f"The images must be larger for {network.model.name!r}: images of "
                f"(height, width) {size} leave no pixels at {cut.layer_name!r} "
                f"(stride {cut.stride})."
            )
