"""Hybrid forward: a trained teacher helps a small student through its own task's loss.

Song et al., "Robust Knowledge Transfer via Hybrid Forward on the Teacher-Student Model",
AAAI 2021.
"""

import importlib
import importlib.abc
import importlib.util
import pathlib
import sys

from keras_hybrid.training import startup

startup.import_keras()  # before anything else does

# `baselines`, `metrics` and `faster_rcnn` register with Keras what files hold.
from keras_hybrid import baselines, callbacks, metrics
from keras_hybrid.hybrid.balance import DynamicBalance, FixedBalance
from keras_hybrid.hybrid.describe import describe
from keras_hybrid.hybrid.stages import Stage, find_stages
from keras_hybrid.hybrid.transfer import HybridTransfer
from keras_hybrid.models.detection import faster_rcnn as _faster_rcnn

_here = pathlib.Path(__file__).parent


class _Checkout(importlib.abc.MetaPathFinder):
    """Finds `keras_hybrid.recipes` and `.export` where a checkout has them."""

    folders = {
        "keras_hybrid.recipes": _here.parent / "recipes",
        "keras_hybrid.export": _here.parent / "export",
    }

    def find_spec(self, name, path=None, target=None):
        if name not in self.folders:
            return None
        folder = self.folders[name]
        return importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


if not (_here / "recipes").is_dir():
    sys.meta_path.insert(0, _Checkout())


def __getattr__(name):
    # On the JAX and PyTorch backends `import keras_hybrid` stays free of TensorFlow.
    if name in ("applications", "export"):
        return importlib.import_module(f"keras_hybrid.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
