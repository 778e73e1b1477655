"""State dicts of PyTorch as plain files of arrays, from which no code can come.

    python -m keras_hybrid.models.state_dict resnet50.pt resnet50.npz
    python -m keras_hybrid.models.state_dict pose.pt openpifpaf_resnet50.npz 1e-4

makes them where PyTorch is installed; the number is the BatchNorms' epsilon, which state
dicts do not hold. It reads with `weights_only`. A checkpoint that holds a whole module,
as OpenPifPaf's do, can only be opened where that code is trusted; save its `state_dict()`
there first.
"""

import argparse
import os
import pathlib
import pickle  # for the name of an error: `weights_only` executes none
import sys
import warnings

import numpy as np

EPSILON_KEY = "batch_norm_epsilon"
"""A key for the BatchNorms' epsilon, which state dicts do not hold."""

# Where training scripts put the state dict; of several the first is taken.
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "weights", "params"),
    *("module", "backbone", "encoder"),
    *("model_ema", "state_dict_ema", "params_ema", "ema"),
)


def read_state_dict(path):
    """Name -> array of an `.npz` or `.safetensors` file. Nothing in it is executed.

    What NumPy has no type for, such as bfloat16, becomes float32.

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
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # NumPy, zipfile, zlib and safetensors have their own
        raise ValueError(
            f"{path} must be an .npz or .safetensors file of arrays: {error}. For those "
            "of PyTorch see python -m keras_hybrid.models.state_dict"
        ) from error


def _read_safetensors(path):
    # Where PyTorch is, these need not be.
    import ml_dtypes
    import safetensors

    small = {
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
    }
    arrays = {}
    for name, entry in safetensors.deserialize(path.read_bytes()):
        kind = entry["dtype"]
        if kind in small:
            array = np.frombuffer(entry["data"], small[kind]).astype("float32")
        elif kind == "BOOL":
            array = np.frombuffer(entry["data"], bool)
        else:  # such as F32 or I64
            dtype = f"<{kind[0].lower()}{int(kind[1:]) // 8}"
            array = np.frombuffer(entry["data"], dtype)
        arrays[name] = array.reshape(entry["shape"])
    return arrays


def convert(checkpoint, path, epsilon=None):
    """Writes the tensors of a PyTorch checkpoint as an `.npz` file. Needs PyTorch.

    Args:
        checkpoint: What `torch.save` wrote of a state dict, or of dictionaries around
            one under a usual name such as `"state_dict"`, `"model"` or `"net"`.
        path: Of the `.npz` file.
        epsilon: Of the BatchNorms, to be recorded.

    Returns:
        Names of the entries that are not in the file.

    Raises:
        ValueError: The checkpoint holds no state dict, or more than tensors, in which
            case it was not opened; or `path` or `epsilon` cannot be.
    """
    path = pathlib.Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"`path` must end in .npz. Received: path={path}")
    if epsilon is not None and not 0 < epsilon < 1:
        raise ValueError(f"`epsilon` must be in 0..1. Received: epsilon={epsilon}")
    content = _load(checkpoint)
    found = _state_dict_in(content)
    if found is None:
        keys = [str(key) for key in content] if isinstance(content, dict) else []
        raise ValueError(
            f"{checkpoint} must hold a state dict, tensors by name, alone or under one "
            f"of {', '.join(_WRAPPERS)}. Received: a {type(content).__name__} of "
            f"{', '.join(keys[:5]) or 'no names'}"
        )
    tensors, unused = found
    arrays = {name: _array(name, tensor) for name, tensor in tensors.items()}
    if epsilon is not None:
        arrays[EPSILON_KEY] = np.float64(epsilon)
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with open(unfinished, "wb") as file:
            np.savez(file, **arrays)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return unused


def _load(checkpoint):
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what becomes an error just below
            return torch.load(checkpoint, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{checkpoint} must hold tensors alone, and holds Python objects. Where its "
            "code is trusted, save its state_dict() and convert that"
        ) from error
    except OSError:
        raise
    except Exception as error:  # each kind of damage has its own
        reason = f"{type(error).__name__}: {error}".partition(". ")[0]
        raise ValueError(
            f"{checkpoint} must be a whole file of tensors that torch.save wrote. "
            f"PyTorch says: {' '.join(reason.split())}"
        ) from error


def _state_dict_in(content):
    """(name -> tensor, names of the other entries), or None if there are no tensors."""
    if not isinstance(content, dict):
        return None
    for wrapper in _WRAPPERS:
        if found := _state_dict_in(content.get(wrapper)):
            tensors, unused = found
            return tensors, [*(str(key) for key in content if key != wrapper), *unused]
    tensors = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and hasattr(value, "detach")
    }
    # Beside another state dict they are something else, such as a generator's state.
    if not tensors or any(map(_state_dict_in, content.values())):
        return None
    return tensors, [str(key) for key in content if key not in tensors]


def _array(name, tensor):
    try:
        tensor = tensor.detach().to_dense().resolve_conj()
        try:
            return tensor.numpy()
        except TypeError:  # bfloat16 and the like
            return tensor.float().numpy()
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"{name!r} must be a tensor that NumPy holds: {error}"
        ) from error


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m keras_hybrid.models.state_dict",
        description="Writes a checkpoint of PyTorch as a plain file of arrays.",
    )
    parser.add_argument("checkpoint", help="what torch.save wrote")
    parser.add_argument("out", help="path of the .npz file")
    parser.add_argument(
        "epsilon",
        type=float,
        nargs="?",
        help="that of the BatchNorms, which state dicts do not hold",
    )
    given = parser.parse_args(arguments)
    try:
        unused = convert(given.checkpoint, given.out, given.epsilon)
    except ModuleNotFoundError:
        sys.exit("PyTorch must be installed to read its checkpoints: pip install torch")
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"{given.out} written. Not used: {', '.join(unused) or 'nothing'}")


if __name__ == "__main__":
    main()
