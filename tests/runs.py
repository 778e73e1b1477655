"""Runs of the imagenet recipe that take seconds, here and in a process of their own."""

import dataclasses
import os
import pathlib
import subprocess
import sys

from keras_hybrid.recipes import imagenet


def config(files, workdir, **changes):
    settings = {
        "data_dir": str(files / "data.npz"),
        "teacher": str(files / "teacher.keras"),
        "teacher_preprocessing": "tf",
        "student": str(files / "student.keras"),
        "workdir": str(workdir),
        "epochs": 2,
        "batch_size": 8,
    }
    return imagenet.Config(**{**settings, **changes})


def flags(config):
    return [f"--{name}={value}" for name, value in dataclasses.asdict(config).items()]


def shell(*flags, cwd, **settings):
    """Starts the recipe from a shell; returns its `subprocess.Popen`."""
    command = [sys.executable, "-m", "keras_hybrid.recipes.imagenet", *flags]
    root = pathlib.Path(imagenet.__file__).parents[1]
    path = {"PYTHONPATH": str(root)} if (root / "setup.py").exists() else {}
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, **path},
        **settings,
    )
