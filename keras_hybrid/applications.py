"""The networks of `keras.applications` with their preprocessing built in.

A hybrid path feeds one image to two networks that were trained on differently scaled
pixels. Here every network takes raw RGB and scales it in its first layers, which are
Keras's own, so that a saved model loads without this package.
"""

import difflib
import os
import re
import warnings
from typing import Any

import keras

from keras_hybrid.hybrid import preprocessing

# Module of `keras.applications` -> scheme of its `preprocess_input`, "inside" where
# the network has it built in.
_PREPROCESSING = {
    "convnext": "inside",
    "densenet": "torch",
    "efficientnet": "inside",
    "efficientnet_v2": "inside",
    "inception_resnet_v2": "tf",
    "inception_v3": "tf",
    "mobilenet": "tf",
    "mobilenet_v2": "tf",
    "mobilenet_v3": "inside",
    "nasnet": "tf",
    "resnet": "caffe",
    "resnet_v2": "tf",
    "vgg16": "caffe",
    "vgg19": "caffe",
    "xception": "tf",
}
# Height and width in pixels of a network with its own top, where they are not 224. Keras
# defines them inside its functions; they are needed here before the call.
_DEFAULT_SIZES = {
    "EfficientNetB1": 240,
    "EfficientNetB2": 260,
    "EfficientNetB3": 300,
    "EfficientNetB4": 380,
    "EfficientNetB5": 456,
    "EfficientNetB6": 528,
    "EfficientNetB7": 600,
    "EfficientNetV2B1": 240,
    "EfficientNetV2B2": 260,
    "EfficientNetV2B3": 300,
    "EfficientNetV2S": 384,
    "EfficientNetV2M": 480,
    "EfficientNetV2L": 480,
    "InceptionResNetV2": 299,
    "InceptionV3": 299,
    "NASNetLarge": 331,
    "Xception": 299,
}


def load(
    name: str,
    weights: str | os.PathLike | None = "imagenet",
    input_shape: tuple[int | None, int | None, int] | None = None,
    classes: int | None = None,
    **kwargs: Any,
) -> keras.Model:
    """Returns a network of `keras.applications` that takes raw RGB images.

    The model is Functional and flat: `image` (B, H, W, 3), RGB in 0-255 of any dtype,
    then `preprocessing` and `rgb_to_bgr` in float32 where the network needs them, then
    the layers of Keras's network.

    Args:
        name: Name of a network in `keras.applications`: `"ResNet50"`, `"MobileNet"`, ...
        weights: `"imagenet"` (downloaded on first use), `None` for random weights, or the
            path of a file for Keras's `load_weights`. Note that Keras's EfficientNet V1
            rescales by the ImageNet standard deviation for `"imagenet"` only, not for a
            file.
        input_shape: `(height, width, 3)` in pixels, with `None` for any size. By default
            any size; with the network's own classifier, and always for NASNet, the size
            at which it was published.
        classes: `None` for the feature map (B, h, w, C) of the last stage, or the number
            of classes for probabilities (B, classes). These come from the network's own
            top if `weights` are random or have such a top (a file, or ImageNet and
            1000), or else from global average pooling and a new `Dense` layer,
            `"predictions"`, on the features.
        **kwargs: Arguments of the Keras network: `alpha`, `pooling`,
            `classifier_activation`, ... `include_top` forces the network's own top
            (`True`) or leaves it out (`False`).

    Raises:
        ValueError: The name is unknown, the weights file is missing or does not fit, the
            shape is not RGB, or Keras refuses an argument.
        ConnectionError: The ImageNet weights could not be downloaded.

    Example:

    ```python
    teacher = load("ResNet50")  # (B, H, W, 3) -> (B, H/32, W/32, 2048)
    student = load("MobileNet", weights=None, classes=10, input_shape=(96, 96, 3))
    student(np.full((1, 96, 96, 3), 255, "uint8"))  # (1, 10)
    ```
    """
    _check(name, weights, input_shape, classes)
    is_file = weights not in (None, "imagenet")
    tops = [classes is not None and (weights != "imagenet" or classes == 1000)]
    if is_file and classes is not None:
        tops = [True, False]
    if "include_top" in kwargs:
        tops = [kwargs.pop("include_top")]

    reason = None
    for top in tops:
        model = _build(
            name, None if is_file else weights, input_shape, top, classes, kwargs
        )
        reason = _try_weights(model, weights) if is_file else None
        if reason is None:
            break
    else:
        raise ValueError(
            f"`weights` must be a file that fits {name}. Received: weights="
            f"{os.fspath(weights)!r}, for which Keras reports: {_one_line(reason)}"
        ) from reason
    if classes is None or top:
        return model
    return _add_classifier(model, classes, kwargs.get("classifier_activation", "softmax"))


def with_preprocessing(model: keras.Model, scheme: str) -> keras.Model:
    """Returns `model` preceded by layers that scale raw RGB as in its training.

    Args:
        model: A model that takes images (B, H, W, 3).
        scheme: `"bgr"`, `"caffe"` (BGR minus the ImageNet mean), `"tf"` (-1..1),
            `"torch"` (0..1, then ImageNet mean and standard deviation), `"clip"`
            (likewise, of CLIP), or `"inside"` for a model that already takes raw RGB.

    Raises:
        ValueError: The scheme is unknown.
    """
    if scheme == "inside":
        return model
    if scheme not in preprocessing.SCHEMES:
        raise ValueError(
            f"`scheme` must be one of {list(preprocessing.SCHEMES)}. Received: "
            f"scheme={scheme!r}"
        )
    image = keras.Input(model.input_shape[1:], name="image")
    x = preprocessing.normalized(image, scheme)
    return keras.Model(image, model(x), name=model.name)


def _networks():
    """Name -> function, for all of `keras.applications` with known preprocessing."""
    return {
        name: network
        for name, network in vars(keras.applications).items()
        if callable(network) and _module(network) in _PREPROCESSING
    }


def _module(network):
    return network.__module__.rpartition(".")[2]


def check_name(name: str) -> None:
    """Raises ValueError unless a network of `keras.applications` has that name."""
    names = _networks()
    if name not in names:
        lower = {n.lower(): n for n in names}
        close = difflib.get_close_matches(str(name).lower(), lower, n=1)
        hint = f" Did you mean {lower[close[0]]!r}?" if close else ""
        raise ValueError(
            f"`name` must be one of {', '.join(names)}. Received: name={name!r}.{hint}"
        )


def _check(name, weights, input_shape, classes):
    check_name(name)
    is_local = weights not in (None, "imagenet") and "://" not in str(weights)
    if is_local and not os.path.isfile(weights):
        raise ValueError(
            "`weights` must be 'imagenet', None or the path of a weights file that "
            f"exists. Received: weights={str(weights)!r}"
        )
    if input_shape is not None and (len(input_shape) != 3 or input_shape[-1] != 3):
        raise ValueError(
            "`input_shape` must be (height, width, 3): the networks take RGB images, "
            f"channels last. Received: input_shape={input_shape}"
        )
    if name.startswith("NASNet") and None in (input_shape or ()):
        # Its padding is computed from the static size, and is wrong without one.
        raise ValueError(
            f"`input_shape` must not contain None for {name}. Received: "
            f"input_shape={input_shape}"
        )
    if classes is not None and (not isinstance(classes, int) or classes < 1):
        raise ValueError(
            f"`classes` must be a positive integer or None. Received: classes={classes}"
        )
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "`keras.config.image_data_format()` must be 'channels_last'. Received: "
            f"{keras.config.image_data_format()!r}"
        )


def _build(name, weights, input_shape, top, classes, kwargs):
    """Keras's network, preceded by an `image` input and layers that normalize it."""
    network = _networks()[name]
    if input_shape is None:
        fixed = top or _module(network) == "nasnet"
        size = _DEFAULT_SIZES.get(name, 224) if fixed else None
        input_shape = (size, size, 3)
    image = keras.Input(input_shape, name="image")
    kwargs = {**kwargs, "input_shape": tuple(input_shape)}
    if top and classes is not None:
        kwargs = {**kwargs, "classes": classes}
    x = preprocessing.normalized(image, _PREPROCESSING[_module(network)])
    with warnings.catch_warnings():
        # MobileNets take the weights of 224x224 for other sizes, which is intended.
        warnings.filterwarnings("ignore", "`input_shape` is undefined or non-square")
        try:
            model = network(include_top=top, weights=weights, input_tensor=x, **kwargs)
        except Exception as error:
            # `keras.utils.get_file` raises a bare Exception.
            if not isinstance(error, OSError) and "URL fetch failure" not in str(error):
                raise
            raise ConnectionError(
                f"The ImageNet weights of {name} could not be downloaded. Pass "
                "`weights=None` for random weights, or the path of a file. "
                f"The download failed with: {_one_line(error)}"
            ) from error
    # Keras's model has the list [image] as input, and warns of every call with a tensor.
    return keras.Model(image, model.output, name=model.name)


def _try_weights(model, path):
    """Loads a file, or returns the exception that says why it does not fit."""
    with warnings.catch_warnings():
        # Keras gives this warning when it leaves layers random: the file does not fit.
        warnings.filterwarnings("error", "Skipping nested container")
        try:
            model.load_weights(os.fspath(path))
        except (OSError, KeyError, ValueError, UserWarning) as error:
            return error


def _add_classifier(model, classes, activation):
    x = model.output
    if len(x.shape) == 4:
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    x = keras.layers.Dense(classes, activation=activation, name="predictions")(x)
    return keras.Model(model.input, x, name=model.name)


def _one_line(error):
    return re.sub(r"\s+", " ", str(error))[:300]
