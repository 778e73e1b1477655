"""The rows of a GPU's steps, on a CPU and for tiny networks."""

import json
import pathlib
import sys

import pytest

import keras_hybrid
import tiny

SIZE = "--image_size=16", "--batch_size=4", "--steps=1", "--rounds=1"


@pytest.fixture
def gpu(module):
    return module("speed.gpu_step")


@pytest.fixture
def small_networks(module, monkeypatch):
    """One block in each stage of PyTorch's networks, where it is installed."""
    torch = pytest.importorskip("torch")
    by_hand = module("speed.torch_hybrid")
    resnet = [(width, 1, stride) for width, _, stride in by_hand._RESNET]
    monkeypatch.setattr(by_hand, "_RESNET", resnet)
    mobilenet = [blocks[:1] for blocks in by_hand._MOBILENET]
    monkeypatch.setattr(by_hand, "_MOBILENET", mobilenet)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_processes_on_jax(gpu, monkeypatch, tmp_path, capsys):
    here = pathlib.Path(__file__)
    paths = map(str, (here.parents[2], here.parents[1]))
    monkeypatch.setenv("PYTHONPATH", ":".join(paths))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(gpu, "PROGRAM", [str(here.with_name("gpu_process.py"))])
    file = tmp_path / "rows.jsonl"
    arguments = [*SIZE, "--dtypes=bfloat16", "--libraries=keras_hybrid"]
    monkeypatch.setattr(sys, "argv", ["gpu_step.py", *arguments, f"--json={file}"])
    gpu.main()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    names = gpu.FORWARD, gpu.PLAIN, gpu.HYBRID
    assert [(row["dtype"], row["row"]) for row in rows] == [
        ("bfloat16", name) for name in names
    ]
    assert all(row["milliseconds"] > 0 for row in rows)
    assert rows[0]["card"] == "cpu"
    assert rows[0]["share_of_roof"] is None  # of a card that the table lacks
    printed = capsys.readouterr().out
    assert "keras_hybrid, bfloat16, hybrid" in printed
    assert "ended" not in printed


@pytest.mark.usefixtures("small_networks")
def test_rows_of_pytorch(gpu):
    options = gpu.parse([*SIZE, "--image_size=32", "--libraries=PyTorch"])
    rows = list(gpu.torch_rows(options, "bfloat16"))
    assert [row["row"] for row in rows] == [gpu.FORWARD, gpu.PLAIN, gpu.HYBRID]
    assert rows[2]["flops_per_image"] > 3 * rows[1]["flops_per_image"]


def test_flops(gpu):
    """By hand, of an image of 32x32."""
    size = 32
    model = keras_hybrid.HybridTransfer(tiny.teacher(size), tiny.student(size))
    # Student: 3x3 to 4 channels at 16x16, to 6 at 8x8, to 8 at 4x4; dense, to 4.
    first = 2 * 256 * 9 * 3 * 4
    second, third, dense = 2 * 64 * 9 * 4 * 6, 2 * 16 * 9 * 6 * 8, 2 * 8 * 4
    assert gpu.path_flops(model.paths[2], size) == 3 * (first + second + third + dense)
    # Teacher: two 3x3 in each stage. The student-first path has its second one between
    # adapters of 4 to 6 channels at 16x16 and of 8 to 6 at 8x8.
    teacher = 2 * 64 * 9 * (6 * 8 + 8 * 8)
    adapters = 2 * 256 * 4 * 6 + 2 * 64 * 8 * 6
    expected = 3 * (first + adapters + third + dense) + 2 * teacher
    assert gpu.path_flops(model.paths[0], size) == expected


@pytest.mark.usefixtures("small_networks")
def test_flops_in_pytorch(module):
    """A stage of MobileNet as above: 1x1 after a depthwise 3x3."""
    torch, by_hand = pytest.importorskip("torch"), module("speed.torch_hybrid")
    teacher, student = by_hand.ResNet50(), by_hand.MobileNet()
    images = torch.zeros(2, 3, 32, 32)
    # 3x3 to 32 channels, depthwise, to 64, at 16x16; then by halves to 1024 at 1x1.
    blocks = [(256, 32, 64), (64, 64, 128), (16, 128, 256), (4, 256, 512), (1, 512, 1024)]
    flops = 2 * 256 * 9 * 3 * 32 + 2 * 1024 * 1000
    flops += sum(2 * positions * (9 * a + a * b) for positions, a, b in blocks)
    assert by_hand.forward_flops(student, images) == flops
    assert by_hand.training_flops(student, images) == 3 * flops
    hybrid = by_hand.Hybrid(teacher, student)
    frozen = by_hand.forward_flops(teacher, images)
    assert by_hand.training_flops(teacher, images) == 2 * frozen
    adapters = [
        *((256, 64, 64), (64, 256, 128), (16, 256, 512), (4, 1024, 512)),
        *((256, 64, 64), (64, 128, 256), (16, 512, 256), (4, 512, 1024), (1, 2048, 1024)),
    ]
    more = sum(2 * positions * a * b for positions, a, b in adapters)
    # Of the two hybrid paths each stage of the two networks is in one; the head in both.
    expected = 3 * (2 * flops + 2 * 1024 * 1000 + more) + 2 * frozen
    assert by_hand.training_flops(hybrid, images) == expected


def test_a_library_that_is_not_there(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    options = gpu.parse([*SIZE])
    with pytest.raises(SystemExit, match="needs JAX and Keras"):
        next(gpu.keras_rows(options, "float32"))


@pytest.mark.parametrize(
    ("card", "share"),
    [("NVIDIA H100 80GB HBM3", 1 / 989), ("NVIDIA H100 PCIe", 1 / 756), ("?", None)],
)
def test_share_of_the_roof(gpu, card, share):
    options = gpu.parse(["--batch_size=100"])
    row = gpu.row(options, 1e9, 100.0, card=card)  # 1000 images/s, 1e12 FLOP/s
    assert row["images_per_second"] == 1000
    assert row["share_of_roof"] == (share and pytest.approx(share))
