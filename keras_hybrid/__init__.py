"""Hybrid forward: a trained teacher helps a small student through its own task's loss.

Song et al., "Robust Knowledge Transfer via Hybrid Forward on the Teacher-Student Model",
AAAI 2021.
"""

import importlib
import pathlib

from keras_hybrid import startup

startup.import_keras()  # before anything else does

# `baselines`, `metrics` and `models.faster_rcnn` register with Keras what files hold.
from keras_hybrid import baselines, callbacks, metrics
from keras_hybrid.balance import DynamicBalance, FixedBalance
from keras_hybrid.describe import describe
from keras_hybrid.models import faster_rcnn as _faster_rcnn
from keras_hybrid.stages import Stage, find_stages
from keras_hybrid.transfer import HybridTransfer

_here = pathlib.Path(__file__).parent
if not (_here / "recipes").is_dir():
    # A checkout, where recipes/ and export/ lie beside this folder.
    __path__.append(str(_here.parent))


def __getattr__(name):
    # On the JAX and PyTorch backends `import keras_hybrid` stays free of TensorFlow.
    if name in ("applications", "export"):
        return importlib.import_module(f"keras_hybrid.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
