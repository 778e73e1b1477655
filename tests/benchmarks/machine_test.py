"""The line that tells a reader what a benchmark ran on."""

import pathlib

import keras
import pytest
import tensorflow as tf


@pytest.fixture
def machine(module):
    return module("machine")


@pytest.fixture
def cpuinfo(monkeypatch):
    """`cpuinfo(text)`: what /proc/cpuinfo says; None: there is none."""

    def cpuinfo(text):
        monkeypatch.setattr(pathlib.Path, "exists", lambda path: text is not None)
        monkeypatch.setattr(pathlib.Path, "read_text", lambda path: text)

    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    return cpuinfo


def test_one_line(machine):
    line = machine.describe("numpy")
    assert "\n" not in line
    assert f"tensorflow {tf.__version__}, keras {keras.__version__}, numpy " in line
    assert "oneDNN on" in line or "oneDNN off" in line


@pytest.mark.parametrize(
    ("flags", "isa"),
    [
        ("fpu sse2 avx avx2 avx512f avx512_vnni amx_tile", "AMX"),
        ("fpu sse2 avx avx2 avx512f avx512_vnni", "AVX-512 VNNI"),
        ("fpu sse2 avx avx2 avx512f", "AVX-512"),
        ("fpu sse2 avx avx2", "AVX2"),
    ],
)
def test_instructions(machine, cpuinfo, flags, isa):
    cpuinfo(f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n\n")
    assert (machine.cpu_model(), machine.isa()) == ("Some CPU", isa)


def test_instructions_that_onednn_may_not_use(machine, cpuinfo, monkeypatch):
    cpuinfo("flags\t\t: fpu avx2 avx512f avx512_vnni\n")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert machine.isa() == "AVX-512 VNNI (ONEDNN_MAX_CPU_ISA=AVX2)"


@pytest.mark.parametrize("text", ["processor\t: 0\nFeatures\t: fp asimd\n", None])
def test_a_machine_of_another_kind(machine, cpuinfo, monkeypatch, text):
    cpuinfo(text)
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    assert (machine.cpu_model(), machine.isa()) == ("aarch64", "aarch64")
