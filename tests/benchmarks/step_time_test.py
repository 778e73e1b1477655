"""The ratios that a run of step_time.py ends with, and the batches of its pairs."""

import numpy as np
import pytest


def test_ratios_are_of_one_round(module, monkeypatch):
    times = module("speed.step_time")
    monkeypatch.setattr(times.machine, "describe", lambda *packages: str(packages))
    seconds = {
        times.PLAIN: [1.0, 2.0, 1.0],
        times.GRADIENT: [2.0, 4.0, 2.0],
        times.HYBRID: [4.0, 8.0, 2.0],
        times.RECIPE: [2.0, 2.0, 2.0],
        times.TORCH_HYBRID: [5.0, 4.0, 4.0],
    }
    text = times.report(times.Config(rounds=3), seconds, memory={})
    lines = dict(line.rsplit("  ", 2)[:2] for line in text.splitlines()[-3:])
    ratios = {name.strip(): float(value) for name, value in lines.items()}
    # Of 4 / (2 + 2), 8 / (4 + 4), 2 / (2 + 2); 2 / 4, 2 / 8, 2 / 2; 4 / 5, 8 / 4, 2 / 4.
    assert ratios == {
        "yardstick, keras_hybrid": 1.0,
        "recipe, hybrid / keras_hybrid": 0.5,
        "keras_hybrid / PyTorch, hybrid": 0.8,
    }
    assert "16.0" in text  # images/s of the plain student
    assert "('torch',)" in text


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_batches(module, task):
    pair = module("speed.step_pairs").build(task, "ResNet50", "MobileNet", 64, 3, (2,))
    assert pair.images.shape == (3, 64, 64 if task == "classification" else 128, 3)
    if task == "classification":
        assert pair.targets.shape == (3,)
        assert pair.switch_points(None, None) == (2,)
    elif task == "segmentation":
        assert pair.targets.shape == (3, 64, 128)
    else:
        boxes = pair.targets["boxes"]
        sizes = boxes[..., 2:] - boxes[..., :2]
        np.testing.assert_allclose(sizes[..., 1], 2.44 * sizes[..., 0], rtol=1e-5)
        assert (boxes >= 0).all()
        assert (boxes <= [128, 64, 128, 64]).all()
