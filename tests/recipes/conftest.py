"""Small images and networks on disk, shared by the tests of the recipes."""

import functools
import pathlib

import numpy as np
import pytest
from matplotlib.figure import Figure

import tiny
from keras_hybrid import applications


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A folder with data.npz, teacher.keras and student.keras for 4 classes at 32 px."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 4
    images = rng.integers(0, 60, (24, 32, 32, 3)) + 40 * labels[:, None, None, None]
    images = images.astype("uint8")
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(folder / "data.npz", **arrays)
    tiny.teacher().save(folder / "teacher.keras")
    tiny.student().save(folder / "student.keras")
    return folder


@pytest.fixture(autouse=True)
def skip_rendering(request, monkeypatch):
    """Write empty files instead of pictures, unless a test asks for `rendering`.

    Rendering them takes about a seventh of a short run.
    """

    def touch(figure, path, **kwargs):
        pathlib.Path(path).touch()

    if "rendering" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", touch)


@pytest.fixture
def rendering():
    """Let matplotlib render the pictures of this test's runs."""


@pytest.fixture
def narrow(monkeypatch):
    """Load MobileNet with a quarter of its channels, because float16 is slow on a CPU."""
    load = functools.partial(applications.load, alpha=0.25)
    monkeypatch.setattr(applications, "load", load)
