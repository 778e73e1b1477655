"""Runs of the imagenet recipe that take seconds, in this process or in another."""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

from keras_hybrid.recipes import imagenet

# The path of the package for other processes, if the tests run in a checkout.
_ROOT = pathlib.Path(imagenet.__file__).parents[1]
PATH = {"PYTHONPATH": str(_ROOT)} if (_ROOT / "setup.py").exists() else {}


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
    values = dataclasses.asdict(config).items()
    return [f"--{name}={value}" for name, value in values if value is not None]


def shell(*flags, cwd, environment=(), **settings):
    """Start the recipe as a command; return its `subprocess.Popen`."""
    command = [sys.executable, "-m", "keras_hybrid.recipes.imagenet", *flags]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, **PATH, **dict(environment)},
        **settings,
    )


def tf_configs(machines=2):
    """The environment variable TF_CONFIG of each machine."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(machines)]
    cluster = {"worker": [f"localhost:{s.getsockname()[1]}" for s in sockets]}
    for one in sockets:
        one.close()
    return [
        json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        for index in range(machines)
    ]
