"""What a training step costs, counted by hand."""

import keras
import numpy as np
import pytest

import tiny
from keras_hybrid import HybridTransfer


def counted(module, model, *batch):
    model.compile("sgd", "sparse_categorical_crossentropy")
    return module("study.cost").flops(model, batch)


def test_flops_of_a_small_network(module):
    """A convolution has a gradient of its kernel only, a dense layer two."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(image)
    x = keras.layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    model = keras.Model(image, keras.layers.Dense(5)(keras.layers.Flatten()(x)))
    convolution = 2 * 8 * 8 * 3 * 3 * 3 * 4
    depthwise = 2 * 4 * 4 * 3 * 3 * 4
    dense = 2 * 4 * 4 * 4 * 5
    expected = 2 * (2 * convolution + 3 * depthwise + 3 * dense)
    images, labels = np.zeros((2, 8, 8, 3), "float32"), np.zeros(2, int)
    assert counted(module, model, images, labels) == expected


def test_paths_that_are_taken_in_turn_count_half(module):
    batch = tiny.batch(2)
    none = tiny.student(batch_norm=False)
    alone = counted(module, none, *batch)
    two, one = (
        counted(
            module,
            HybridTransfer(tiny.teacher(), none, paths_per_step=n),
            *batch,
        )
        for n in (2, 1)
    )
    # The student's first stage is shared with its own path, by one of the two.
    assert one - alone == pytest.approx((two - alone) / 2, rel=0.01)


def test_rows_are_measured_in_turns(module, monkeypatch):
    cost, tables = module("study.cost"), module("study.tables").TABLES
    rows = cost.distinct(tables["cifar10"])
    assert {"none", "kd", "at", "ours, teacher at random"} <= set(rows)
    assert not {"none, rate / 3", "ours, two switches", "ours, loss / 3"} & set(rows)
    order = []
    monkeypatch.setattr(cost, "flops", lambda model, batch: 7.0)
    monkeypatch.setattr(
        cost, "step_of", lambda table, row: (None, None, lambda: order.append(row))
    )
    found = cost.costs(tables["people"], rounds=2)
    turn = cost.distinct(tables["people"])
    assert order == 3 * [row for row in turn for _ in range(2)]
    assert [line["row"] for line in found] == turn
    assert {line["flops"] for line in found} == {7.0}
