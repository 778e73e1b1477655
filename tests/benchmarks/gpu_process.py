"""`benchmarks.speed.gpu_step` with tiny networks, where TensorFlow must stay away."""

import sys

import tiny
from benchmarks.speed import gpu_step


def networks(size):
    return tiny.teacher(size), tiny.student(size, classes=gpu_step.CLASSES)


gpu_step.networks = networks
gpu_step.main()
assert "tensorflow" not in sys.modules
