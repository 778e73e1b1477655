"""Hybrid forward: a trained teacher helps a small student through the task's own loss.

Song et al., "Robust Knowledge Transfer via Hybrid Forward on the Teacher-Student Model",
AAAI 2021.
"""

import importlib
import importlib.abc
import importlib.util
import pathlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from keras_hybrid.training import startup

startup.import_keras()  # before anything else imports it

# `baselines`, `metrics` and `faster_rcnn` register their classes with Keras, for loading.
from keras_hybrid import baselines, callbacks, metrics
from keras_hybrid.hybrid.balance import DynamicBalance, FixedBalance
from keras_hybrid.hybrid.describe import describe
from keras_hybrid.hybrid.stages import Stage, find_stages
from keras_hybrid.hybrid.transfer import HybridTransfer
from keras_hybrid.models.detection import faster_rcnn as _faster_rcnn

_here = pathlib.Path(__file__).parent


class _Checkout(importlib.abc.MetaPathFinder):
    """Finds `keras_hybrid.recipes` and `.export` in a checkout, beside the package."""

    folders = {
        "keras_hybrid.recipes": _here.parent / "recipes",
        "keras_hybrid.export": _here.parent / "export",
    }

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if name not in self.folders:
            return None
        folder = self.folders[name]
        return importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


if not (_here / "recipes").is_dir():
    sys.meta_path.insert(0, _Checkout())


def __getattr__(name: str) -> ModuleType:
    # On JAX and PyTorch, `import keras_hybrid` must not import TensorFlow.
    if name in ("applications", "export"):
        return importlib.import_module(f"keras_hybrid.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
