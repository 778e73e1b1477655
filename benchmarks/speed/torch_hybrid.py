"""A hand-written hybrid step in PyTorch, for ResNet-50 and MobileNet V1.

It is what a user would write without this package. The networks are those of Keras
Applications, with their preprocessing, cut at the same layers; paths, adapters and loss
are those of `HybridTransfer`.
"""

from collections.abc import Callable, Sequence

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
        stages: The five stages, as `keras_hybrid.find_stages` cuts them.
        widths: Channels of the feature map at the end of each stage.
    """

    widths = 64, 256, 512, 1024, 2048

    def __init__(self) -> None:
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.Sequential(*self.stages)(x)


class MobileNet(nn.Module):
    """Keras's MobileNet, with the attributes of `ResNet50` and a `head`."""

    widths = 64, 128, 256, 512, 1024

    def __init__(self, classes: int = 1000) -> None:
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.Sequential(*self.stages, self.head)(x)


class Bottleneck(nn.Module):
    """A residual block of ResNet-50."""

    def __init__(self, into: int, width: int, stride: int) -> None:
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


class CaffePreprocessing(nn.Module):
    """Raw RGB to BGR minus the ImageNet mean."""

    def __init__(self) -> None:
        super().__init__()
        mean = torch.tensor(_MEAN_BGR).reshape(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(1) - self.mean


class TfPreprocessing(nn.Module):
    """Raw RGB to -1..1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 127.5 - 1


def _normed(convolution):
    norm = nn.BatchNorm2d(convolution.out_channels, eps=1e-3, momentum=0.01)
    return convolution, norm, nn.ReLU6()


class Hybrid(nn.Module):
    """Runs the student-first, the teacher-first and the plain path to the predictions."""

    def __init__(
        self,
        teacher: ResNet50,
        student: MobileNet,
        switch_points: Sequence[int] = STRIDES[:-1],
    ) -> None:
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

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [path(x) for path in self.paths]


def cross_entropy(y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Computes the cross entropy in float32, for logits of any dtype."""
    return functional.cross_entropy(y_pred.float(), y)


def hybrid_loss(predictions: Sequence[torch.Tensor], y: torch.Tensor) -> torch.Tensor:
    """Computes alpha (L1 + L2) + L3 from the logits of the three paths."""
    l1, l2, l3 = (cross_entropy(y_pred, y) for y_pred in predictions)
    alpha = (2 * l3 / (l1 + l2)).detach()
    return alpha * (l1 + l2) + l3


def training(
    model: nn.Module,
    loss_of: Callable[..., torch.Tensor],
    compiled: Callable[[Callable], Callable] = lambda function: function,
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Returns a function that trains `model` on a batch with SGD and returns the loss.

    Args:
        model: Model from images (B, 3, H, W) to predictions.
        loss_of: Function from predictions and labels to a scalar.
        compiled: Function that compiles the forward pass, such as `torch.compile`.
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


def forward_flops(model: nn.Module, images: torch.Tensor) -> int:
    """Returns the FLOPs per image (B, 3, H, W) of convolutions and dense layers."""
    return sum(flops for flops, _ in _layer_flops(model, images))


def training_flops(model: nn.Module, images: torch.Tensor) -> int:
    """Returns those of a training step, in which frozen weights need no gradient."""
    return sum(
        (3 if trained else 2) * flops for flops, trained in _layer_flops(model, images)
    )


def _layer_flops(model, images):
    """Returns (FLOPs, whether the weights are trained) for each call of such a layer."""
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
