"""What documented commands and code meet in place of downloads, drawings and long runs.

Python imports it in every process that has this folder on its PYTHONPATH. All else is the
package's own and Keras's own:

- ImageNet's weights are not downloaded, and the networks stay as they were drawn.
- Embedded data sets are of a few drawn streets.
- `fit` stops after one epoch.
"""

import functools
import importlib.abc
import importlib.util
import sys


def _keras(keras):
    from keras.src.utils import file_utils

    weights = "weights that would be downloaded"
    load_weights, fit = keras.Model.load_weights, keras.Model.fit

    @functools.wraps(load_weights)
    def load_downloaded(self, filepath, *args, **kwargs):
        return filepath == weights or load_weights(self, filepath, *args, **kwargs)

    @functools.wraps(fit)
    def fit_one_epoch(self, *args, epochs=1, initial_epoch=0, **kwargs):
        epochs = min(epochs, initial_epoch + 1)
        return fit(self, *args, epochs=epochs, initial_epoch=initial_epoch, **kwargs)

    file_utils.get_file = lambda *args, **kwargs: weights
    keras.Model.load_weights, keras.Model.fit = load_downloaded, fit_one_epoch


def _streets(streets):
    crops = streets.crops
    streets.crops = lambda count, **kwargs: crops(min(count, 16), **kwargs)


def _embedded(embedded):
    for draw in (embedded.streets_with_labels, embedded.streets_with_people):
        draw.__defaults__ = 4, 1


class _AfterImport(importlib.abc.MetaPathFinder):
    """Changes a module when it has been imported, if it ever is."""

    changes = {
        "keras": _keras,
        "keras_hybrid.data.streets": _streets,
        "keras_hybrid.recipes.embedded": _embedded,
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
