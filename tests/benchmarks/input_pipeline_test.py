"""The contenders of the benchmark do the same work; how fast is not tested."""

import numpy as np
import pytest


@pytest.fixture
def benchmark(module):
    return module("speed.input_pipeline")


def quick(benchmark, **changes):
    settings = {"images": 64, "scenes": 16, "shrink": 8, "rounds": 1}
    return benchmark.Config(**{**settings, **changes})


@pytest.mark.parametrize("task", ["class folders", "label maps", "boxes"])
def test_all_contenders_bring_whole_epochs_of_like_images(benchmark, task, tmp_path):
    contenders = benchmark.TASKS[task](quick(benchmark), tmp_path)
    means, counts = {}, {}
    for name, batches in contenders.items():
        images = np.concatenate([batch[0].numpy() for batch in batches])
        counts[name] = len(images), images.shape[1:], images.dtype.name
        means[name] = images.mean()
    assert len(set(counts.values())) == 1
    assert counts[benchmark.OURS][0] in (64, 16)
    assert max(means.values()) - min(means.values()) < 25


def test_report(benchmark):
    """Ratios are taken within a round: 1/2, 3/4 and 9/10; their median is 0.75."""
    speeds = {
        benchmark.OURS: [1, 3, 9],
        benchmark.WHOLE: [2, 4, 10],
        benchmark.CROP: [1, 3, 9],
    }
    text = benchmark.report("boxes", speeds)
    assert "keras_hybrid                    3  (1 - 9)" in text
    whole, crop = text.splitlines()[-2:]
    assert whole.split()[-4:] == ["0.75", "(0.50", "-", "0.90)"]
    assert crop.split()[-4:] == ["1.00", "(1.00", "-", "1.00)"]


def test_output_names_the_machine(benchmark, capsys):
    benchmark.main(quick(benchmark))
    text = capsys.readouterr().out
    assert "oneDNN" in text.splitlines()[0]
    for task in ("class folders", "label maps", "boxes"):
        assert task in text
