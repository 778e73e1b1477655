"""PyTorch checkpoints in common layouts; some tests need PyTorch itself."""

import json
import sys
import types

import ml_dtypes
import numpy as np
import pytest

from keras_hybrid.models import state_dict
from keras_hybrid.models.state_dict import convert, read_state_dict


class Tensor:
    """The part of `torch.Tensor` that `convert` uses."""

    def __init__(self, *values):
        self.array = np.array(values, "float32")

    def detach(self):
        return self

    to_dense = resolve_conj = detach

    def numpy(self):
        return self.array


WEIGHTS = {"conv1.weight": Tensor(1, 2), "bn1.num_batches_tracked": Tensor(3)}
OPTIMIZER = {"state": {0: {"momentum_buffer": Tensor(9)}}, "param_groups": [{"lr": 0.1}]}
# Case -> (checkpoint, names of its unused entries).
FOUND = {
    "state dict": (WEIGHTS, []),
    "PyTorch's tutorial": (
        {
            "epoch": 3,
            "optimizer_state_dict": OPTIMIZER,
            "model_state_dict": WEIGHTS,
            "rng_state": Tensor(4),
        },
        ["epoch", "optimizer_state_dict", "rng_state"],
    ),
    "net": ({"net": WEIGHTS, "acc": 91.2}, ["acc"]),
    "weights": ({"weights": WEIGHTS}, []),
    "nested twice": ({"model": {"state_dict": WEIGHTS, "depth": 50}}, ["depth"]),
    "settings under model": ({"model": {"depth": 50}, "network": WEIGHTS}, ["model"]),
    "EMA weights only": ({"model_ema": WEIGHTS, "optimizer": OPTIMIZER}, ["optimizer"]),
    "EMA weights too": (
        {"model_ema": {"conv1.weight": Tensor(9)}, "model": WEIGHTS},
        ["model_ema"],
    ),
    "version and optimizer": (
        {**WEIGHTS, "version": "1.0", "optimizer": OPTIMIZER},
        ["version", "optimizer"],
    ),
}
NOT_FOUND = {
    "empty": {},
    "empty state dict": {"state_dict": {}, "epoch": 1},
    "list": [WEIGHTS],
    "tensor": Tensor(1),
    "numbers": {0: Tensor(1)},
    "unknown names": {"student": WEIGHTS, "teacher": WEIGHTS},
    "unknown name and RNG state": {"mine": WEIGHTS, "rng_state": Tensor(4)},
}


@pytest.fixture
def convert_content(tmp_path, monkeypatch):
    """A function that converts the content of a checkpoint to out.npz."""

    def convert_content(content, **kwargs):
        fake = types.SimpleNamespace(load=lambda *args, **kwargs: content)
        monkeypatch.setitem(sys.modules, "torch", fake)
        return convert("file.pt", tmp_path / "out.npz", **kwargs)

    return convert_content


@pytest.mark.parametrize("case", FOUND)
def test_state_dict_is_found_in_checkpoints_of_common_layouts(
    case, convert_content, tmp_path
):
    content, unused = FOUND[case]
    assert convert_content(content, epsilon=1e-3) == unused
    arrays = read_state_dict(tmp_path / "out.npz")
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "conv1.weight": [1, 2],
        "bn1.num_batches_tracked": [3],
        "batch_norm_epsilon": 1e-3,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz"]


@pytest.mark.parametrize("case", NOT_FOUND)
def test_a_checkpoint_without_a_state_dict_is_rejected(case, convert_content, tmp_path):
    (tmp_path / "out.npz").write_text("of yesterday")
    with pytest.raises(ValueError, match="file.pt must hold a state dict, .*Received: "):
        convert_content(NOT_FOUND[case])
    assert (tmp_path / "out.npz").read_text() == "of yesterday"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_conversion_leaves_no_file(convert_content, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        convert_content(WEIGHTS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["c.pt", "weights.bin"], "`path` must end in .npz. Received: path=weights.bin"),
        (["c.pt", "weights"], "`path` must end in .npz"),
        (["c.pt", "weights.safetensors"], "`path` must end in .npz"),
        (["c.pt", "o.npz", "0"], "`epsilon` must be in 0..1. Received: epsilon=0.0"),
        (["c.pt", "o.npz", "nan"], "`epsilon` must be in 0..1"),
    ],
)
def test_invalid_command_line_arguments(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        state_dict.main(arguments)
    assert list(tmp_path.iterdir()) == []


def test_missing_pytorch_is_reported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match="PyTorch must be installed.*pip install torch"):
        state_dict.main(["c.pt", str(tmp_path / "o.npz")])


def test_help_mentions_checkpoints(capsys):
    with pytest.raises(SystemExit, match="0"):
        state_dict.main(["--help"])
    assert "checkpoint" in capsys.readouterr().out


def save_with_pytorch(path, content):
    torch = pytest.importorskip("torch")
    torch.save(content(torch), path)
    return torch


def test_tensors_of_all_types_are_converted(tmp_path):
    def content(torch):
        plain = torch.tensor([1.0, 2.5])
        return {
            "parameter": torch.nn.Parameter(plain),
            "bfloat16": plain.to(torch.bfloat16),
            "half": plain.half(),
            "double": plain.double(),
            "float8": plain.to(torch.float8_e4m3fn),
            "sparse": plain.to_sparse(),
            "complex": torch.complex(plain, plain * 0).conj(),
            "view": torch.stack([plain, plain])[:, 0],
            "bool": torch.tensor([True]),
            "scalar": torch.tensor(3),
        }

    save_with_pytorch(tmp_path / "c.pt", content)
    assert convert(tmp_path / "c.pt", tmp_path / "o.npz") == []
    arrays = read_state_dict(tmp_path / "o.npz")
    for name in (
        "parameter",
        "bfloat16",
        "half",
        "double",
        "float8",
        "sparse",
        "complex",
    ):
        assert arrays[name].tolist() == [1, 2.5]
    assert arrays["bfloat16"].dtype == np.float32
    assert arrays["view"].tolist() == [1, 1]
    assert arrays["bool"].tolist() == [True]
    assert arrays["scalar"] == 3


def test_a_pickled_module_is_rejected(tmp_path):
    save_with_pytorch(tmp_path / "c.pt", lambda torch: torch.nn.Conv2d(3, 2, 1))
    with pytest.raises(
        ValueError, match=r"c\.pt must hold tensors alone.*state_dict\(\)"
    ):
        convert(tmp_path / "c.pt", tmp_path / "o.npz")


@pytest.mark.parametrize("part", [0, 60, 0.5, "text"])
def test_damaged_checkpoints_are_rejected(part, tmp_path):
    path = tmp_path / "c.pt"
    save_with_pytorch(path, lambda torch: {"a": torch.ones(1000)})
    data = path.read_bytes()
    size = int(part * len(data)) if part == 0.5 else part
    path.write_bytes(b"hello world" if part == "text" else data[:size])
    with pytest.raises(
        SystemExit, match=r"^ValueError: .*c\.pt must be a whole"
    ) as error:
        state_dict.main([str(path), str(tmp_path / "o.npz")])
    assert "\n" not in str(error.value)


def test_a_missing_checkpoint_is_reported(tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(SystemExit, match="FileNotFoundError"):
        state_dict.main([str(tmp_path / "c.pt"), str(tmp_path / "o.npz")])


def save_safetensors(path, entries):
    """Write {name: (dtype of the format, shape, bytes)} as the specification defines."""
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, (kind, shape, data) in entries.items():
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": offsets}
        body += data
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)


def test_safetensors_of_all_types_are_read(tmp_path):
    ones = {
        "F64": "<f8",
        "F32": "<f4",
        "F16": "<f2",
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        **{
            f"{k}{bits}": f"<{k.lower()}{bits // 8}"
            for k in "IU"
            for bits in (8, 16, 32, 64)
        },
        "BOOL": bool,
    }
    entries = {
        kind: (kind, [2, 1], np.ones((2, 1), dtype).tobytes())
        for kind, dtype in ones.items()
    }
    save_safetensors(tmp_path / "a.safetensors", entries)
    arrays = read_state_dict(tmp_path / "a.safetensors")
    assert arrays.keys() == ones.keys()
    for array in arrays.values():
        np.testing.assert_array_equal(array, [[1], [1]])
    assert arrays["BF16"].dtype == np.float32


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("damage", ["cut", "start", "middle"])
def test_a_damaged_npz_file_is_rejected(save, damage, tmp_path):
    path = tmp_path / "a.npz"
    save(path, a=np.random.default_rng(0).normal(size=1000))
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        at = {"start": 20, "middle": len(data) // 2}[damage]
        data[at : at + 50] = b"\xff" * 50
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.npz must be an .npz or .safetensors file"):
        read_state_dict(path)
