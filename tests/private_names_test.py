"""Private names of Keras and TensorFlow that this package uses.

A new version of either may change them, which is why `pyproject.toml` has an upper bound
for Keras. To raise it, run the tests with the new version first.
"""

import ast
import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.models.functional import Functional

import documented_blocks

# Attribute -> a class that has it, or None if only compiled models have it.
ATTRIBUTES = {
    "_adjust_input_rank": Functional,
    "_aggregate_additional_loss": keras.Model,
    "_assert_input_compatibility": keras.layers.Layer,
    "_clear_losses": keras.layers.Layer,
    "_common_apply": keras.optimizers.LossScaleOptimizer,
    "_compile_loss": None,
    "_compile_metrics": None,
    "_compute_loss": keras.Model,
    "_flatten_layers": keras.layers.Layer,
    "_functional": None,
    "_inbound_nodes": None,
    "_inputs_struct": None,
    "_loss_tracker": None,
    "_losses_override": None,
    "_metrics": None,
    "_nodes_by_depth": None,
    "_outbound_nodes": None,
    "_outputs_struct": None,
    "_trainable_variables": None,
    "_use_merge_call": tf.compat.v1.distribute.StrategyExtended,
}
IMPORTS = {
    "keras.src.backend.common.global_state",
    "keras.src.layers.layer.CallContext",
    "keras.src.layers.merging.base_merge.Merge",
    "keras.src.models.functional.Functional",
    "keras.src.models.functional.unpack_singleton",
    "keras.src.ops.numpy.Flip",
    "keras.src.saving.serialization_lib.serialize_with_public_fn",
    "keras.src.utils.python_utils.is_default",
    "tensorflow.python.util._pywrap_util_port",
}


def names_in_use():
    """(private attributes that this package does not define, private imports)."""
    used, ours, imported = set(), set(), set()
    for _, tree in documented_blocks.modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                of_self = isinstance(node.value, ast.Name) and node.value.id == "self"
                stored = of_self and isinstance(node.ctx, ast.Store)
                (ours if stored else used).add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                ours.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                ours.add(node.id)
            elif isinstance(node, ast.ImportFrom):
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    private = {name for name in used - ours if name[0] == "_" and name[:2] != "__"}
    sources = "keras.src.", "tensorflow.python."
    return private, {name for name in imported if name.startswith(sources)}


def test_lists_of_private_names_are_complete():
    assert names_in_use() == (set(ATTRIBUTES), IMPORTS)


@pytest.mark.parametrize("name", [n for n, owner in ATTRIBUTES.items() if owner])
def test_private_attributes_of_classes_exist(name):
    assert hasattr(ATTRIBUTES[name], name)


def test_private_attributes_of_compiled_models_exist():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    for name in ("_compile_loss", "_compile_metrics", "_functional", "_losses_override"):
        assert hasattr(model, name)
    for name in ("_metrics", "_trainable_variables"):
        assert isinstance(getattr(model, name), list)
    for name in ("_inbound_nodes", "_outbound_nodes"):
        assert isinstance(getattr(model.layers[0], name), list)
    model.fit(np.zeros((2, 4)), np.zeros(2), verbose=0)
    assert hasattr(model, "_loss_tracker")
    for name in ("_nodes_by_depth", "_inputs_struct", "_outputs_struct"):
        assert hasattr(model._functional, name)


@pytest.mark.parametrize("name", sorted(IMPORTS))
def test_private_imports_exist(name):
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ImportError:
        assert hasattr(importlib.import_module(module), attribute)
