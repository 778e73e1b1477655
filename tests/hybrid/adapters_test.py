import numpy as np
import pytest
import tensorflow as tf

from keras_hybrid.hybrid.adapters import Adapter


def test_adapter_mixes_channels_and_keeps_the_size():
    adapter = Adapter(2, resizes=False)
    adapter.build((None, None, None, 3))
    kernel = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    adapter.set_weights([kernel.reshape(1, 1, 3, 2), np.array([0.5, -1.0])])
    x = np.array([1.0, 2.0, 3.0]).reshape(1, 1, 1, 3)
    # 1 * 1 + 0.5, and 2 * 2 + 3 * 1 - 1
    np.testing.assert_allclose(adapter(x, size=(1, 1)).numpy().ravel(), [1.5, 6.0])


@pytest.mark.parametrize("known", [True, False])
def test_adapter_resizes_bilinearly(known):
    adapter = Adapter(1)
    adapter.build((None, None, None, 1))
    adapter.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    x = tf.reshape(tf.constant([0.0, 4.0]), (1, 1, 2, 1))

    @tf.function
    def resize(size):
        return adapter(x, size=(1, 4) if known else (size[0], size[1]))

    # The centres of the new pixels lie at 1/4 and 3/4 of each old pixel.
    row = resize(tf.constant([1, 4])).numpy().ravel()
    np.testing.assert_allclose(row, [0.0, 1.0, 3.0, 4.0])


def test_adapter_round_trips_through_its_config():
    adapter = Adapter(5, resizes=False, name="a")
    copy = Adapter.from_config(adapter.get_config())
    assert (copy.channels, copy.resizes, copy.name) == (5, False, "a")
