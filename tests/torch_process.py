"""PyTorch modules as teachers: `KERAS_BACKEND=torch python torch_process.py`.

A step with a teacher of modules equals one with the same network in Keras layers.
"""

import keras
import numpy as np
import torch
from keras import layers
from torch import nn

import keras_hybrid
import tiny
from keras_hybrid.hybrid import precision
from keras_hybrid.models import torch_modules

WIDTHS = 6, 8, 10


class Residual(nn.Module):
    """A strided convolution and a residual block with batch normalization."""

    def __init__(self, into, width):
        super().__init__()
        self.down = nn.Conv2d(into, width, 2, stride=2)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        x = self.down(x)
        return torch.relu(x + self.norm(self.conv(x)))


class Tokens(nn.Module):
    """A map as tokens with a class token and a position embedding."""

    def __init__(self, into, count):
        super().__init__()
        self.first = nn.Parameter(torch.randn(1, 1, into))
        self.positions = nn.Parameter(torch.randn(1, 1 + count, into))

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(len(x), -1, -1), x], dim=1) + self.positions


def modules():
    torch.manual_seed(0)
    stages = [Residual(a, b) for a, b in zip((3, *WIDTHS), WIDTHS)]
    for stage in stages:
        nn.init.uniform_(stage.norm.running_mean, -0.3, 0.3)
        nn.init.uniform_(stage.norm.running_var, 0.5, 1.5)
        nn.init.uniform_(stage.norm.weight, 0.5, 1.5)
        nn.init.uniform_(stage.norm.bias, -0.3, 0.3)
    return stages


def in_keras(stages):
    """The same network of Keras layers."""
    x = image = keras.Input((32, 32, 3))
    assigned = []
    for i, stage in enumerate(stages, start=1):
        width = WIDTHS[i - 1]
        down = layers.Conv2D(width, 2, strides=2)
        conv = layers.Conv2D(width, 3, padding="same")
        norm = layers.BatchNormalization(epsilon=1e-5)
        x = down(x)
        x = layers.ReLU(name=f"stage{i}")(layers.Add()([x, norm(conv(x))]))
        for layer, module in ((down, stage.down), (conv, stage.conv)):
            kernel = module.weight.detach().numpy().transpose(2, 3, 1, 0)
            assigned.append((layer, [kernel, module.bias.detach().numpy()]))
        values = (
            stage.norm.weight,
            stage.norm.bias,
            stage.norm.running_mean,
            stage.norm.running_var,
        )
        assigned.append((norm, [value.detach().numpy() for value in values]))
    model = keras.Model(image, x)
    for layer, values in assigned:
        layer.set_weights(values)
    return model


def step(teacher, images, labels, dtype=None):
    keras.utils.set_random_seed(0)
    model = keras_hybrid.HybridTransfer(teacher, tiny.student(), teacher_dtype=dtype)
    model.compile(keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy")
    logs = model.train_on_batch(images, labels, return_dict=True)
    weights = [keras.ops.convert_to_numpy(w) for w in model.trainable_weights]
    return [float(value) for value in logs.values()], weights


def main():
    images, labels = tiny.batch(8)
    stages = modules()
    before = [{k: v.clone() for k, v in s.state_dict().items()} for s in stages]
    teacher = torch_modules.from_stages(stages)
    found = keras_hybrid.find_stages(teacher)
    assert [(s.layer_name, s.stride, s.channels) for s in found] == [
        ("stage1", 2, 6),
        ("stage2", 4, 8),
        ("stage3", 8, 10),
    ]
    assert [s.stride for s in keras_hybrid.find_stages(in_keras(stages))] == [2, 4, 8]
    logs, weights = step(teacher, images, labels)
    expected_logs, expected = step(in_keras(stages), images, labels)
    np.testing.assert_allclose(logs, expected_logs, rtol=1e-5)
    for weight, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)
    precision._is_fast = lambda dtype: True  # whatever this CPU is
    in_bfloat16, _ = step(teacher, images, labels, "bfloat16")
    assert in_bfloat16 != logs
    np.testing.assert_allclose(in_bfloat16, logs, rtol=1e-2)
    for stage, values in zip(stages, before):
        for name, value in stage.state_dict().items():
            assert torch.equal(value, values[name]), name

    encoder = [
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        for _ in range(4)
    ]
    patches = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), Tokens(8, 16))
    vit = torch_modules.from_stages([patches, *encoder], (32, 32, 3))
    names = [stage.layer_name for stage in keras_hybrid.find_stages(vit)]
    assert names == ["stage2", "stage3", "stage4", "stage5"], names
    student = tiny.student(channels=(4, 6, 8, 8))
    model = keras_hybrid.HybridTransfer(vit, student)
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    model.fit(images, labels, verbose=0)
    print("A step with PyTorch modules equals one with Keras layers.")


if __name__ == "__main__":
    main()
