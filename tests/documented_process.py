"""Runs what is documented in Python: `python documented_process.py PAGE`.

PAGE is README.md or another page, whose blocks run in order, each on what the ones before
it left; or `docstrings`: the examples of each docstring, by itself.
"""

import doctest
import gc
import importlib
import sys

import ai_edge_litert.interpreter
import keras
import numpy as np
import tensorflow as tf

import documented_blocks
import keras_hybrid
import tiny
from keras_hybrid.data.classification import augment

_MODULES = {
    "np": np,
    "keras": keras,
    "keras_hybrid": keras_hybrid,
    "tf": tf,
    "ai_edge_litert": ai_edge_litert,
    "augment": augment,
}


def photographs(count, size, classes):
    """Raw RGB (count, size, size, 3) and labels (count,)."""
    generator = np.random.default_rng(0)
    images = generator.uniform(0, 255, (count, size, size, 3)).astype("float32")
    return images, generator.integers(0, classes, count)


def batches(*args):
    return tf.data.Dataset.from_tensor_slices(photographs(*args)).batch(2)


def rectangles():
    images = np.zeros((2, 96, 160, 3), "float32")
    return tf.data.Dataset.from_tensor_slices((images, np.arange(2))).batch(2)


def tiny_model():
    model = keras_hybrid.HybridTransfer(tiny.teacher(), tiny.student())
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    return {
        "model": model,
        "images": photographs(2, 32, 4)[0],
        "train": batches(2, 32, 4),
    }


def tiny_pair():
    return {"teacher": tiny.teacher(), "student": tiny.student(), "train": tiny_data()}


def tiny_data():
    return batches(2, 32, 4)


def two_photographs():
    images, labels = photographs(2, 224, 10)
    return {"images": images, "labels": labels}


def eight_people():
    images, _ = photographs(8, 64, 1)
    boxes = np.tile(np.float32([[8, 8, 24, 48]]), (8, 1, 1))
    return {"images": images, "boxes": boxes, "labels": np.ones((8, 1), "int32")}


def camera():
    return {**tiny_model(), "camera_bytes": np.zeros((1, 32, 32, 3), "uint8")}


def small_photographs():
    images, labels = photographs(4, 64, 10)
    return {"images": images, "labels": labels, "centres": np.full((4, 2), 0.5)}


# What a reader has who tries a page, or the example of a class or a function.
GIVEN = {
    "README.md": lambda: {"train": batches(2, 224, 9), "val": batches(2, 224, 9)},
    "docs/guides/networks.md": small_photographs,
    "docs/guides/zoos.md": lambda: {"train": rectangles()},
    "docs/guides/pytorch.md": two_photographs,
    "docs/guides/devices.md": lambda: {"train": batches(2, 224, 10)},
    "HybridTransfer": two_photographs,
    "FeatureTransfer": tiny_pair,
    "FasterRCNN": eight_people,
    "HybridEpochs": tiny_model,
    "TransferCurves": tiny_model,
    "to_saved_model": tiny_model,
    "to_tflite": camera,
}


def run_page(page):
    names = GIVEN.get(page, dict)()
    for block in documented_blocks.blocks():
        if block.page == page and block.language == "python":
            print(block.text)
            exec(compile(block.text, str(block), "exec"), names)


def run_docstrings():
    runner = doctest.DocTestRunner(_Checker(), verbose=True, optionflags=doctest.ELLIPSIS)
    parser = doctest.DocTestParser()
    for module, tree in documented_blocks.modules():
        for name, text in documented_blocks.docstrings(tree):
            fenced = [b for b in documented_blocks.fenced(module, text) if b.language]
            if not fenced and ">>> " not in text:
                continue
            names = vars(importlib.import_module(module)).copy()
            names |= _MODULES | GIVEN.get(name, dict)()
            runner.run(parser.get_doctest(text, names, f"{module}.{name}", None, 0))
            for block in fenced:
                exec(compile(block.text, str(block), "exec"), names)
    sys.exit(runner.summarize(verbose=False).failed)


class _Checker(doctest.OutputChecker):
    """Where a docstring shows no output, any will do: `fit` prints its progress."""

    def check_output(self, want, got, optionflags):
        return not want or super().check_output(want, got, optionflags)


if __name__ == "__main__":
    gc.freeze()  # what is imported is no garbage
    (page,) = sys.argv[1:]
    keras.config.disable_interactive_logging()  # no progress among what is compared
    run_docstrings() if page == "docstrings" else run_page(page)
