"""The network to export: the student alone, in float32, with named outputs."""

import os

import keras

from keras_hybrid.training.atomic_write import temporary_directory
from keras_hybrid.training.types import Tensor

OTHER_FLOATS = {"float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16"}


def load(path: str | os.PathLike, argument: str) -> keras.Model:
    """Returns the model of a `.keras` file.

    Args:
        path: Path of the file.
        argument: Name of the user's argument, such as `"--student"`.

    Raises:
        FileNotFoundError: The file does not exist or cannot be read.
        ValueError: The file contains no model; the message is one line.
    """
    check_file(path, argument)
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # zipfile, h5py and Keras raise different types
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{argument} must be a model saved as .keras. Received: {argument}={path}, "
            f"for which Keras reports: {reason}"
        ) from error


def check_file(path: str | os.PathLike, argument: str) -> None:
    """Raises FileNotFoundError unless a user's argument is a file that can be read."""
    if not (os.path.isfile(path) and os.access(path, os.R_OK)):
        raise FileNotFoundError(
            f"{argument} must be a file that exists and can be read. Received: "
            f"{argument}={path}"
        )


def float32_student(model: keras.Model) -> keras.Model:
    """Returns the network to export; `model` itself is not changed.

    Args:
        model: A built student with one image input, or a model with a `.student`.

    Returns:
        The student; if one of its layers has another float policy, such as
        `"mixed_float16"`, a float32 copy of it with the same weights.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Export needs the TensorFlow backend of Keras. "
            f"Received: backend={keras.backend.backend()}"
        )
    student = getattr(model, "student", model)
    if not isinstance(student, keras.Model):
        raise TypeError(
            "`model` must be a `keras.Model` or have one as its `student`. "
            f"Received: model={model} of type {type(model)}"
        )
    if not student.built:
        raise ValueError(
            "`model` must be built: call it on a batch of images once. "
            f"Received: model={student}"
        )
    image_input(student)
    policies = {layer.dtype_policy.name for layer in student._flatten_layers()}
    return _copy_in_float32(student) if policies & OTHER_FLOATS else student


def image_input(student: keras.Model) -> keras.KerasTensor:
    """Returns the `KerasTensor` of the student's image input: `(B, H, W, C)`."""
    backbone = getattr(student, "backbone", None)
    functional = student if getattr(student, "inputs", None) else backbone
    inputs = list(getattr(functional, "inputs", None) or ())
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise ValueError(
            "`model` must have one input, images of shape (batch, height, width, "
            f"channels). Received: input shapes {[tuple(x.shape) for x in inputs]}"
        )
    return inputs[0]


def forward(student: keras.Model, images: Tensor) -> dict[str, Tensor]:
    """Runs `student` in inference mode and names its outputs.

    Returns:
        A flat dict of tensors. A dict of outputs keeps its keys; a single output or a
        list gives `"output_0"`, `"output_1"`, ...; nested keys are joined, so that
        `{"boxes": [a, b]}` gives `"boxes_0"` and `"boxes_1"`.

    Raises:
        ValueError: Two outputs have the same name.
    """
    outputs = keras.tree.flatten_with_path(student(images, training=False))
    names = [_output_name(path) for path, _ in outputs]
    if len(set(names)) < len(names):
        raise ValueError(
            "`model` must have outputs whose names differ once nested keys are joined "
            f"with `_`. Received: {', '.join(names)}"
        )
    return {name: tensor for name, (_, tensor) in zip(names, outputs)}


def _output_name(path):
    named = path and isinstance(path[0], str)
    return "_".join(map(str, path if named else ("output", *(path or (0,)))))


def _copy_in_float32(student):
    try:
        return _copy(student)
    except Exception as error:  # of any type, from a layer's get_config or from_config
        reason = " ".join(str(error).rpartition("Exception encountered: ")[2].split())
        raise ValueError(
            "`model` must be a network that Keras can copy in float32, since it computes "
            "in another precision: custom layers need `get_config`, custom functions "
            "`keras.saving.register_keras_serializable`. Or build it in float32, and "
            f"load its weights. Received: model={student.name}, for which Keras reports: "
            f"{type(error).__name__}: {reason[:200]}"
        ) from error


def _copy(student):
    config = keras.saving.serialize_keras_object(student)
    config.pop("compile_config", None)
    classes = {
        keras.saving.get_registered_name(type(layer)): type(layer)
        for layer in student._flatten_layers()
        if not type(layer).__module__.startswith("keras.")
    }
    # `safe_mode` guards against untrusted files; this config comes from a live model.
    copy = keras.saving.deserialize_keras_object(
        _in_float32(config), custom_objects=classes, safe_mode=False
    )
    with temporary_directory() as directory:
        # A file matches weights by layer, `set_weights` only by position.
        weights = os.path.join(directory, "student.weights.h5")
        student.save_weights(weights)
        copy.load_weights(weights)
    return copy


def _in_float32(config):
    """Returns `config` with float32 for every other float dtype and policy in it."""
    if isinstance(config, (list, tuple)):
        return type(config)(_in_float32(item) for item in config)
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        name = _dtype_in_float32(config["config"]["name"])
        return {**config, "config": {**config["config"], "name": name}}
    return {
        key: _dtype_in_float32(value) if key == "dtype" else _in_float32(value)
        for key, value in config.items()
    }


def _dtype_in_float32(dtype):
    if isinstance(dtype, str):
        return "float32" if dtype in OTHER_FLOATS else dtype
    return _in_float32(dtype)
