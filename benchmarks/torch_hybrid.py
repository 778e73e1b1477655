"""The hybrid step by hand in PyTorch, for ResNet-50 and MobileNet V1.

What a user would write without this package. The networks are those of Keras
Applications, with their preprocessing, cut at the same layers; paths, adapters and loss
are those of `HybridTransfer`.
"""

import torch
from torch import nn
from torch.nn import functional

STRIDES = 2, 4, 8, 16, 32
_MEAN_BGR = 103.939, 116.779, 123.68
_RESNET = (64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)  # width, blocks, stride
# (width, stride) of the blocks of each stage.
_MOBILENET = (
    [(64, 1)],
    [(128, 2), (128, 1)],
    [(256, 2), (256, 1)],
    [(512, 2), *[(512, 1)] * 5],
    [(1024, 2), (1024, 1)],
)


class ResNet50(nn.Module):
    """Keras's ResNet50 without a top: stride on the first 1x1, biases everywhere.

    Attributes:
        stages: Five, as `keras_hybrid.find_stages` cuts it.
        widths: Channels of the map at the end of each.
    """

    widths = 64, 256, 512, 1024, 2048

    def __init__(self):
        super().__init__()
        first = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        norm = nn.BatchNorm2d(64, eps=1.001e-5)
        stages = [nn.Sequential(CaffePreprocessing(), first, norm, nn.ReLU())]
        into = 64
        for width, blocks, stride in _RESNET:
            stage = [Bottleneck(into, width, stride)]
            stage += [Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)]
            into = 4 * width
            stages.append(nn.Sequential(*stage))
        stages[1].insert(0, nn.MaxPool2d(3, stride=2, padding=1))
        self.stages = nn.ModuleList(stages)

    def forward(self, x):
        return nn.Sequential(*self.stages)(x)


class MobileNet(nn.Module):
    """Keras's MobileNet; attributes as `ResNet50`, and `head`."""

    widths = 64, 128, 256, 512, 1024

    def __init__(self, classes=1000):
        super().__init__()
        stages, into = [], 32
        for blocks in _MOBILENET:
            layers = []
            for width, stride in blocks:
                depthwise = nn.Conv2d(into, into, 3, stride, 1, groups=into, bias=False)
                layers += [
                    *_normed(depthwise),
                    *_normed(nn.Conv2d(into, width, 1, bias=False)),
                ]
                into = width
            stages.append(layers)
        first = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        stages[0] = [TfPreprocessing(), *_normed(first), *stages[0]]
        self.stages = nn.ModuleList(nn.Sequential(*layers) for layers in stages)
        pool = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(1e-3)
        self.head = nn.Sequential(*pool, nn.Linear(into, classes))

    def forward(self, x):
        return nn.Sequential(*self.stages, self.head)(x)


class Bottleneck(nn.Module):
    def __init__(self, into, width, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(into, width, 1, stride),
            nn.BatchNorm2d(width, eps=1.001e-5),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width, eps=1.001e-5),
            nn.ReLU(),
            nn.Conv2d(width, 4 * width, 1),
            nn.BatchNorm2d(4 * width, eps=1.001e-5),
        )
        self.shortcut = nn.Identity()
        if into != 4 * width:
            projection = nn.Conv2d(into, 4 * width, 1, stride)
            self.shortcut = nn.Sequential(
                projection, nn.BatchNorm2d(4 * width, eps=1.001e-5)
            )

    def forward(self, x):
        return functional.relu(self.body(x) + self.shortcut(x))


class CaffePreprocessing(nn.Module):
    def __init__(self):
        super().__init__()
        mean = torch.tensor(_MEAN_BGR).reshape(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, x):
        return x.flip(1) - self.mean


class TfPreprocessing(nn.Module):
    def forward(self, x):
        return x / 127.5 - 1


def _normed(convolution):
    norm = nn.BatchNorm2d(convolution.out_channels, eps=1e-3, momentum=0.01)
    return convolution, norm, nn.ReLU6()


class Hybrid(nn.Module):
    """The student-first, the teacher-first and the plain path to the student's head."""

    def __init__(self, teacher, student, switch_points=STRIDES[:-1]):
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = student
        ends = [*(STRIDES.index(stride) + 1 for stride in switch_points), len(STRIDES)]
        self.adapters = nn.ModuleList()
        self.paths = nn.ModuleList(
            [
                self._path(ends, student, teacher),
                self._path(ends, teacher, student),
                nn.Sequential(*student.stages, student.head),
            ]
        )

    def _path(self, ends, *networks):
        layers = []
        starts = [0, *ends[:-1]]
        for i, (start, end) in enumerate(zip(starts, ends)):
            owner = networks[i % 2]
            following = self.student if end == len(STRIDES) else networks[1 - i % 2]
            layers += owner.stages[start:end]
            if following is not owner:
                widths = owner.widths[end - 1], following.widths[end - 1]
                layers.append(nn.Conv2d(*widths, 1))
                self.adapters.append(layers[-1])
        return nn.Sequential(*layers, self.student.head)

    def forward(self, x):
        return [path(x) for path in self.paths]


def cross_entropy(y_pred, y):
    """In float32, whatever the logits are."""
    return functional.cross_entropy(y_pred.float(), y)


def hybrid_loss(predictions, y):
    """alpha (L1 + L2) + L3 from the logits of the three paths."""
    l1, l2, l3 = (cross_entropy(y_pred, y) for y_pred in predictions)
    alpha = (2 * l3 / (l1 + l2)).detach()
    return alpha * (l1 + l2) + l3


def training(model, loss_of, compiled=lambda function: function):
    """A function of a batch that trains `model` by SGD and returns the loss.

    Args:
        model: From images (B, 3, H, W) to predictions.
        loss_of: From predictions and labels to a scalar.
        compiled: What to do to the forward pass, such as `torch.compile`.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01)
    forward = compiled(lambda x, y: loss_of(model(x), y))

    def step(x, y):
        optimizer.zero_grad()
        loss = forward(x, y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def forward_flops(model, images):
    """Of convolutions and dense layers, for one of the images (B, 3, H, W)."""
    return sum(flops for flops, _ in _layer_flops(model, images))


def training_flops(model, images):
    """Likewise of a training step: weights that are frozen need no gradient."""
    return sum(
        (3 if trained else 2) * flops for flops, trained in _layer_flops(model, images)
    )


def _layer_flops(model, images):
    """(FLOPs, whether it is trained) of each call of such a layer."""
    found = []

    def count(layer, _, output):
        positions = output[0, 0].numel()
        found.append((2 * positions * layer.weight.numel(), layer.weight.requires_grad))

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model(images[:2])
    for hook in hooks:
        hook.remove()
    return found
