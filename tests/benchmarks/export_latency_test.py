"""Latencies of a tiny network's files, in one table."""

import types

import pytest
from ai_edge_litert.interpreter import Interpreter

import tiny


def test_table(module):
    latency = module("speed.export_latency")
    student, images = tiny.student(), latency.noise(32, count=2)
    assert images.shape == (2, 32, 32, 3)
    assert images.min() >= 0
    assert images.max() <= 255
    files = {
        (latency.TAUGHT, None): latency.exported(student, None, images),
        (latency.CONVERTER, None): latency.converted(student, None, images),
    }
    for content in files.values():
        interpreter = Interpreter(model_content=content)
        assert [y["shape"].tolist() for y in interpreter.get_output_details()] == [[1, 4]]
    options = types.SimpleNamespace(image_size=32, rounds=3, runs=2)
    times = latency.latencies(options, files)
    assert times.keys() == {(*key, threads) for key in files for threads in (1, 2)}
    assert all(len(found) == 3 and min(found) > 0 for found in times.values())
    times[latency.TAUGHT, None, 2] = [1.0, 4.0, 3.0]
    times[latency.CONVERTER, None, 2] = [2.0, 2.0, 2.0]
    row = latency.report(options, files, times).splitlines()[5]
    # The middle one of 1/2, 4/2 and 3/2.
    assert row.split()[:2] == ["float32", latency.TAUGHT]
    assert float(row.split()[-1]) == pytest.approx(1.5)
