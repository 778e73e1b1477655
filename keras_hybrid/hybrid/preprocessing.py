"""What the images go through before the teacher: its normalization and its image size."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
from keras import ops
from keras.src.ops.numpy import Flip

from keras_hybrid.training.types import Tensor

Preprocessing: TypeAlias = keras.layers.Layer | Callable[[Tensor], Tensor] | str

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def _scale_and_offset(mean, std, factor=1 / 255):
    """Those of (factor * x - mean) / std."""
    return (
        [factor / s for s in std],
        [-m / s for m, s in zip(mean, std, strict=True)],
    )


# Of RGB in 0-255. The numbers of "caffe", "tf" and "torch" are those of
# `keras.applications.imagenet_utils`, those of "clip" of OpenAI's CLIP.
_SCHEMES: dict[str, tuple[Any, Any]] = {
    "bgr": (1.0, 0.0),  # then RGB to BGR
    "caffe": (1.0, [-123.68, -116.779, -103.939]),  # likewise
    "tf": (1 / 127.5, -1.0),
    "torch": _scale_and_offset(*_IMAGENET),
    "clip": _scale_and_offset(*_CLIP),
}
SCHEMES = ("inside", *_SCHEMES)
"""Names of ways to normalize RGB in 0-255; `"inside"` leaves it to the network."""


def normalized(image: keras.KerasTensor, scheme: str) -> keras.KerasTensor:
    """Adds layers that normalize RGB images in 0-255 as a scheme does."""
    if scheme == "inside":
        return image
    x = _rescaled(image, *_SCHEMES[scheme])
    if scheme in ("bgr", "caffe"):
        # Last, because int8 TFLite files of TF 2.21 are wrong if the flip comes first:
        # VGG16 (random weights) was off by 27 % of its range, and by 2 % this way.
        # `Flip` is the class of `keras.ops.flip`, which does not take a name.
        x = Flip(axis=-1, name="rgb_to_bgr")(x)
    return x


def _rescaled(image, scale, offset):
    # float16 has steps of 1/8 above 128: too coarse under a mixed precision policy.
    layer = keras.layers.Rescaling(scale, offset, dtype="float32", name="preprocessing")
    return layer(image)


def get(preprocessing: Any) -> Preprocessing | None:
    """Returns the layer, the function or `"inside"` for a `teacher_preprocessing`.

    Args:
        preprocessing: None, a layer, a function, one of `SCHEMES`, a mapping with the
            keys `"mean"` and `"std"` of RGB in 0-1 (timm's data configuration), or an
            object with `image_mean`, `image_std` and `rescale_factor` (an image processor
            of zeromodels or of Hugging Face's transformers).

    Raises:
        TypeError, ValueError: It is none of these.
    """
    if preprocessing is None or isinstance(preprocessing, keras.Layer):
        return preprocessing
    if isinstance(preprocessing, str):
        if preprocessing not in SCHEMES:
            raise ValueError(
                f"`teacher_preprocessing` must be one of {list(SCHEMES)}, or a layer or "
                f"function. Received: teacher_preprocessing={preprocessing!r}"
            )
        if preprocessing == "inside":
            return preprocessing
        return _model(lambda image: normalized(image, preprocessing))
    statistics = _statistics(preprocessing)
    if statistics is not None:
        return _model(lambda image: _rescaled(image, *_scale_and_offset(*statistics)))
    if callable(preprocessing):
        return preprocessing
    raise TypeError(
        "`teacher_preprocessing` must be a layer or a callable, one of "
        f"{list(SCHEMES)}, or an image processor with a mean and a standard deviation. "
        "Received: "
        f"teacher_preprocessing={preprocessing!r}"
    )


def _statistics(preprocessing):
    """Mean, standard deviation and factor of a zoo's processor, or None."""
    if isinstance(preprocessing, Mapping) and {"mean", "std"} <= preprocessing.keys():
        return preprocessing["mean"], preprocessing["std"]
    mean, std = (getattr(preprocessing, f"image_{n}", None) for n in ("mean", "std"))
    if mean is None or std is None:
        return None
    return mean, std, getattr(preprocessing, "rescale_factor", 1 / 255)


def _model(function):
    image = keras.Input((None, None, 3), name="image")
    return keras.Model(image, function(image), name="teacher_preprocessing")


def function_of(
    preprocessing: Preprocessing | None, size: Sequence[int] | None = None
) -> Callable[[Tensor], Tensor] | None:
    """Returns a function that runs the preprocessing, a layer in inference mode.

    Args:
        preprocessing: What `get` returned.
        size: (height, width) to which its result is resized, or None.

    Returns:
        The function, or None if it would change nothing.
    """
    if preprocessing is None or (preprocessing == "inside" and size is None):
        return None

    def preprocess(images):
        if isinstance(preprocessing, keras.Layer):
            images = preprocessing(images, training=False)
        elif callable(preprocessing):
            images = preprocessing(images)
        if size is None or tuple(images.shape[1:3]) == tuple(size):
            return images
        return ops.image.resize(
            images,
            size,
            interpolation="bilinear",
            antialias=True,
            data_format="channels_last",
        )

    return preprocess
