"""State dicts of PyTorch as plain files of arrays, from which no code can come.

    python -m keras_hybrid.models.state_dict CHECKPOINT.pt OUT.npz [EPSILON]

makes one where PyTorch is installed. It reads with `weights_only`. A checkpoint that
holds a whole module, as OpenPifPaf's do, can only be opened where that code is trusted;
save its `state_dict()` there first.
"""

import json
import pathlib
import sys

import numpy as np

EPSILON_KEY = "batch_norm_epsilon"
"""A key for the BatchNorms' epsilon, which state dicts do not hold."""

_HEADER_LIMIT = 100_000_000  # bytes, as of the format's own library
_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "U8": "u1",
}


def read_state_dict(path):
    """Name -> array of an `.npz` or `.safetensors` file. Nothing in it is executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, or holds Python objects.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"The weights must be a file that exists. Received: {path}"
        )
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must be an .npz or .safetensors file of arrays: {error}. For those "
            "of PyTorch see python -m keras_hybrid.models.state_dict"
        ) from error


def _read_safetensors(path):
    """Eight bytes of length, that many of JSON, then the arrays it describes."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(_HEADER_LIMIT, len(data) - 8):
        raise ValueError("its header is as long as no header is")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        if entry["dtype"] not in _TYPES:
            raise ValueError(
                f"{name} is of type {entry['dtype']}, not one of {[*_TYPES]}"
            )
        start, end = entry["data_offsets"]
        if not 0 <= start <= end <= len(body):
            raise ValueError(f"{name} lies outside of the file")
        array = np.frombuffer(body[start:end], _TYPES[entry["dtype"]])
        arrays[name] = array.reshape(entry["shape"])
    return arrays


def convert(checkpoint, path, epsilon=None):
    """Writes the tensors of a PyTorch checkpoint as an `.npz` file. Needs PyTorch.

    Args:
        checkpoint: What `torch.save` wrote of a state dict, or of a dictionary with one
            under `"state_dict"` or `"model"`.
        path: Of the `.npz` file.
        epsilon: Of the BatchNorms, to be recorded.

    Returns:
        Names of the entries that are not in the file.

    Raises:
        ValueError: The checkpoint holds more than tensors; it was not opened.
    """
    import pickle  # for the name of an error: `weights_only` executes none

    import torch

    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{checkpoint} must hold tensors alone, and holds Python objects. Where its "
            "code is trusted, save its state_dict() and convert that"
        ) from error
    unused = []
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), dict):
            unused += [other for other in content if other != key]
            content = content[key]
    tensors = {k: v.numpy() for k, v in content.items() if isinstance(v, torch.Tensor)}
    unused += [key for key in content if key not in tensors]
    if epsilon is not None:
        tensors[EPSILON_KEY] = np.float64(epsilon)
    np.savez(path, **tensors)
    return unused


def main(arguments):
    if not 2 <= len(arguments) <= 3:
        sys.exit(f"Usage: python -m {__spec__.name} CHECKPOINT.pt OUT.npz [EPSILON]")
    epsilon = float(arguments[2]) if len(arguments) == 3 else None
    try:
        unused = convert(arguments[0], arguments[1], epsilon)
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"{arguments[1]} written. Not used: {', '.join(unused) or 'nothing'}")


if __name__ == "__main__":
    main(sys.argv[1:])
