"""PyTorch's state dicts, and plain files of their arrays, which cannot execute code.

    python -m keras_hybrid.models.state_dict resnet50.pt resnet50.npz
    python -m keras_hybrid.models.state_dict pose.pt openpifpaf_resnet50.npz 1e-4

These commands write such files and need PyTorch. The number is the epsilon of the batch
normalization layers, which state dicts do not contain. Checkpoints are read with
`weights_only`. One that contains a whole module, as OpenPifPaf's do, can only be opened
where its code is trusted; save its `state_dict()` there first.
"""

import argparse
import os
import pathlib
import pickle  # for its `UnpicklingError` alone
import sys
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

FILES = ".npz", ".safetensors", ".pth", ".pt"
"""Suffixes of files of state dicts. PyTorch's own are read where it is installed."""
_OF_PYTORCH = ".pth", ".pt"
EPSILON_KEY = "batch_norm_epsilon"
"""Key of the batch normalization epsilon, which state dicts do not contain."""

# Keys under which training scripts save a state dict; the first one found is used.
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "weights", "params"),
    *("module", "backbone", "encoder"),
    *("model_ema", "state_dict_ema", "params_ema", "ema"),
)


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the arrays of a file without executing any code in it.

    Types that NumPy lacks, such as bfloat16, become float32.

    Args:
        path: Path of an `.npz` or `.safetensors` file or, where PyTorch is installed, of
            a `.pth` or `.pt` file that `torch.save` wrote, as for `convert`.

    Returns:
        A dictionary from name to array.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, has another format or contains Python objects; or
            it is PyTorch's, which is not installed.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"The weights must be a file that exists. Received: {path}"
        )
    if path.suffix in _OF_PYTORCH:
        try:
            return _read_checkpoint(path)[0]
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{path} must be an .npz or .safetensors file where PyTorch is not "
                "installed. To convert it, run python -m keras_hybrid.models.state_dict "
                "where it is"
            ) from error
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # NumPy, zipfile, zlib and safetensors raise their own
        raise ValueError(
            f"{path} must be an .npz or .safetensors file of arrays: {error}. To convert "
            "a PyTorch checkpoint, run python -m keras_hybrid.models.state_dict"
        ) from error


def prefix_of(
    weights: Mapping[str, np.ndarray], key: str, path: str | os.PathLike, network: str
) -> str | None:
    """Returns what precedes a network's names in a state dict, None if it is not there.

    Args:
        weights: Arrays by name.
        key: A name that every such network has.
        path: Origin of the weights, for the error.
        network: Name of the network, for the error.

    Raises:
        ValueError: There are several such networks, each with a prefix.
    """
    ends = [name for name in weights if f".{name}".endswith(f".{key}")]
    prefixes = sorted({name.removesuffix(key) for name in ends})
    if len(prefixes) > 1 and prefixes[0]:
        raise ValueError(
            f"{path} must hold one {network}. Received: {len(prefixes)}, with the "
            f"prefixes {', '.join(prefixes)}"
        )
    return prefixes[0] if prefixes else None


def _read_checkpoint(path):
    """(name -> array, names of the other entries) of a file that `torch.save` wrote."""
    content = _load(path)
    found = _state_dict_in(content)
    if found is None:
        keys = [str(key) for key in content] if isinstance(content, dict) else []
        raise ValueError(
            f"{path} must hold a state dict, tensors by name, alone or under one of "
            f"{', '.join(_WRAPPERS)}. Received: a {type(content).__name__} with "
            f"{', '.join(keys[:5]) or 'no names'}"
        )
    tensors, unused = found
    return {name: _array(name, tensor) for name, tensor in tensors.items()}, unused


def _read_safetensors(path):
    # Imported here, since an environment with PyTorch may lack them.
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


def convert(
    checkpoint: str | os.PathLike,
    path: str | os.PathLike,
    epsilon: float | None = None,
) -> list[str]:
    """Writes the tensors of a PyTorch checkpoint to an `.npz` file. Needs PyTorch.

    Args:
        checkpoint: Path of a file that `torch.save` wrote: a state dict, by itself or
            inside dictionaries under a common name such as `"state_dict"`, `"model"` or
            `"net"`.
        path: Path of the `.npz` file.
        epsilon: Epsilon of the batch normalization layers, to be recorded in the file.

    Returns:
        Names of the checkpoint's entries that were not written.

    Raises:
        ValueError: The checkpoint has no state dict, or contains Python objects, in which
            case none of its code was executed; or `path` or `epsilon` is invalid.
    """
    path = pathlib.Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"`path` must end in .npz. Received: path={path}")
    if epsilon is not None and not 0 < epsilon < 1:
        raise ValueError(f"`epsilon` must be in 0..1. Received: epsilon={epsilon}")
    arrays, unused = _read_checkpoint(checkpoint)
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
            warnings.simplefilter("ignore")  # about what is raised below
            return torch.load(checkpoint, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{checkpoint} must hold tensors alone, but holds Python objects. Where you "
            "trust its code, save its state_dict() and convert that"
        ) from error
    except OSError:
        raise
    except Exception as error:  # each kind of damage raises its own
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
    # Next to a state dict, other tensors are something else, such as a generator's state.
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
            f"{name!r} must be a tensor that NumPy can hold: {error}"
        ) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; exits with a message if it fails."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_hybrid.models.state_dict",
        description="Writes the tensors of a PyTorch checkpoint to an .npz file.",
    )
    parser.add_argument("checkpoint", help="path of a file that torch.save wrote")
    parser.add_argument("out", help="path of the .npz file")
    parser.add_argument(
        "epsilon",
        type=float,
        nargs="?",
        help="epsilon of the batch normalization layers, which state dicts lack",
    )
    given = parser.parse_args(arguments)
    try:
        unused = convert(given.checkpoint, given.out, given.epsilon)
    except ModuleNotFoundError:
        sys.exit("PyTorch must be installed to read its checkpoints: pip install torch")
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"Wrote {given.out}. Not used: {', '.join(unused) or 'nothing'}")


if __name__ == "__main__":
    main()
