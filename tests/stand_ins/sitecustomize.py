"""What documented commands and code meet in place of downloads, drawings and long runs.

Python imports it in every process that has this folder on its PYTHONPATH. All else is the
package's own and Keras's own:

- ImageNet's weights are not downloaded, and the networks keep their random weights.
- ResNets have one block a stage and a quarter of their channels; in docstrings, which
  show their parts, all channels and up to three blocks.
- JAX, which TensorFlow imports wherever it is, is only there where it is the backend;
  nor is matplotlib.pyplot there, which Keras imports and nothing documented uses.
- Synthetic data sets have a few streets.
- `fit` stops after one epoch, and TensorFlow runs functions and ops as they are: that one
  step is done before its graph would have been traced.
- Networks of the model zoos are small or have random weights.
- Of each table of the study there is the first row, at a seed at which it has been run,
  and students for one seed. CIFAR-10's 5000 images come in few batches.
"""

import dataclasses
import functools
import importlib.abc
import importlib.util
import itertools
import os
import sys

_NARROWER, _BLOCKS = (1, 3) if "docstrings" in sys.orig_argv else (4, 1)


def _keras(keras):
    from keras.src.applications import resnet
    from keras.src.utils import file_utils

    weights = "weights that would be downloaded"
    load_weights, fit = keras.Model.load_weights, keras.Model.fit
    stack = resnet.stack_residual_blocks_v1

    @functools.wraps(load_weights)
    def load_downloaded(self, filepath, *args, **kwargs):
        return filepath == weights or load_weights(self, filepath, *args, **kwargs)

    @functools.wraps(fit)
    def fit_one_epoch(self, *args, epochs=1, initial_epoch=0, **kwargs):
        epochs = min(epochs, initial_epoch + 1)
        return fit(self, *args, epochs=epochs, initial_epoch=initial_epoch, **kwargs)

    def stack_few(x, filters, blocks, **kwargs):
        return stack(x, filters // _NARROWER, min(blocks, _BLOCKS), **kwargs)

    resnet.stack_residual_blocks_v1 = stack_few
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        import lean_tensorflow

        tf.config.run_functions_eagerly(True)
        lean_tensorflow.switch_on()
    file_utils.get_file = lambda *args, **kwargs: weights
    keras.Model.load_weights, keras.Model.fit = load_downloaded, fit_one_epoch


def _torch_resnet50(module):
    *others, widths, blocks = module.resnet50.__defaults__
    widths = tuple(width // _NARROWER for width in widths)
    blocks = tuple(min(count, _BLOCKS) for count in blocks)
    module.resnet50.__defaults__ = *others, widths, blocks


def _streets(streets):
    crops = streets.crops
    streets.crops = lambda count, **kwargs: crops(min(count, 4), **kwargs)


def _synthetic(synthetic):
    for draw in (synthetic.streets_with_labels, synthetic.streets_with_people):
        draw.__defaults__ = 2, 1, *draw.__defaults__[2:]


def _study_tables(module):
    from benchmarks.study import plan

    tables = module.TABLES
    first = {name: _first(t.rows(), plan.read(name)) for name, t in tables.items()}
    for name, table in tables.items():
        rows, settings = functools.partial(dict, first[name]), dict(table.settings)
        if table.recipe == "imagenet":
            settings["batch_size"] = 1000
        tables[name] = dataclasses.replace(table, settings=settings, rows=rows)


def _first(rows, runs):
    """{name: row} of the first row, with one of the seeds at which it has been run."""
    first = dict(itertools.islice(rows.items(), 1))
    for name, row in first.items():
        seeds = [seed for other, seed in runs if other == name][:1]
        first[name] = dataclasses.replace(row, seeds=tuple(seeds))
    return first


def _study_materials(materials):
    materials.MORE_SEEDS = materials.SEEDS = (0,)


def _zeromodels(mixin):
    for value in vars(mixin).values():
        if isinstance(value, type) and "from_weights" in vars(value):
            value.from_weights = classmethod(
                lambda cls, identifier, **options: cls(**options)
            )


def _keras_hub(module):
    """Small networks with random weights in place of presets."""
    from keras_hub import layers, models

    sizes = {
        "ViTDetBackbone": {
            "hidden_size": 32,
            "num_layers": 4,
            "intermediate_dim": 64,
            "num_heads": 2,
            "global_attention_layer_indices": [1, 3],
            "image_shape": (64, 64, 3),
            "window_size": 2,
        },
        "MiTBackbone": {
            "layerwise_depths": [1, 1, 1, 1],
            "num_layers": 4,
            "layerwise_num_heads": [1, 2, 4, 8],
            "layerwise_sr_ratios": [8, 4, 2, 1],
            "max_drop_path_rate": 0.1,
            "layerwise_patch_sizes": [7, 3, 3, 3],
            "layerwise_strides": [4, 2, 2, 2],
            "hidden_dims": [16, 32, 48, 64],
            "image_shape": (64, 64, 3),
        },
    }
    models.Backbone.from_preset = classmethod(
        lambda cls, name: cls(**sizes[cls.__name__])
    )
    layers.ImageConverter.from_preset = classmethod(
        lambda cls, name: cls(image_size=(64, 64), scale=1 / 255)
    )


class _AfterImport(importlib.abc.MetaPathFinder):
    """Changes a module when it has been imported, if it ever is."""

    changes = {
        "keras": _keras,
        "keras_hybrid.data.streets": _streets,
        "keras_hybrid.models.torch_resnet50": _torch_resnet50,
        "keras_hybrid.recipes.engine.synthetic": _synthetic,
        "benchmarks.study.materials": _study_materials,
        "benchmarks.study.tables": _study_tables,
        "keras_hub": _keras_hub,
        "zeromodels.base.base_mixin": _zeromodels,
    }

    def find_spec(self, name, path, target=None):
        change = self.changes.pop(name, None)
        if change is None:
            return None
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _AfterImport())
if os.environ.get("KERAS_BACKEND") != "jax":
    sys.modules["jax"] = None
if "docs/guides/zoos.md" not in sys.orig_argv:  # zeromodels imports it
    sys.modules["matplotlib.pyplot"] = None
