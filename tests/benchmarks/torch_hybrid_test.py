"""The step by hand in PyTorch is a step of `HybridTransfer`."""

import keras
import numpy as np
import pytest

import keras_hybrid

torch = pytest.importorskip("torch")  # the benchmark has it only where it is installed


@pytest.fixture
def by_hand(module):
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more wait for each other where cores are busy
    yield module("speed.torch_hybrid")
    torch.set_num_threads(threads)


def named(resnet):
    """(name of a layer in Keras, layer) of all of its layers with weights."""
    first, *stages = resnet.stages
    yield from zip(("conv1_conv", "conv1_bn"), first[1:3])
    for i, stage in enumerate(stages, start=2):
        blocks = [block for block in stage if hasattr(block, "body")]
        for j, block in enumerate(blocks, start=1):
            parts = [block.shortcut, *(block.body[k : k + 2] for k in (0, 3, 6))]
            for k, part in enumerate(parts):
                if isinstance(part, torch.nn.Sequential):
                    name = f"conv{i}_block{j}_{k}"
                    yield from zip((f"{name}_conv", f"{name}_bn"), part)


def with_weights(model):
    """The layers of a chain in PyTorch, in order."""
    return [
        layer
        for layer in model.modules()
        if hasattr(layer, "weight") and layer.weight is not None
    ]


def arrays_of(layer):
    """The weights of a layer of PyTorch as Keras has them."""
    kernel = layer.weight.detach().numpy()
    if isinstance(layer, torch.nn.BatchNorm2d):
        others = layer.bias, layer.running_mean, layer.running_var
        return [kernel, *(weight.detach().numpy() for weight in others)]
    if isinstance(layer, torch.nn.Linear):
        kernel = kernel[:, :, None, None]
    is_depthwise = getattr(layer, "groups", 1) > 1
    kernel = kernel.transpose((2, 3, 0, 1) if is_depthwise else (2, 3, 1, 0))
    return [kernel] if layer.bias is None else [kernel, layer.bias.detach().numpy()]


def pad_as_keras(teacher, student):
    """Zeros around the map that is pooled; MobileNet's maps grow at two sides only."""

    def pad(layer, padding, sides):
        layer.padding = padding
        layer.register_forward_pre_hook(
            lambda _, inputs: torch.nn.functional.pad(inputs[0], sides)
        )

    for layer in teacher.modules():
        if isinstance(layer, torch.nn.MaxPool2d):
            pad(layer, 0, (1, 1, 1, 1))
    for layer in student.modules():
        if getattr(layer, "stride", None) == (2, 2):
            pad(layer, (0, 0), (0, 1, 0, 1))


@pytest.fixture
def in_float64():
    """In float32 the gradients of so deep a network agree in two digits."""
    keras.config.set_dtype_policy("float64")
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_float64")
def test_a_step(by_hand):
    size, count = 32, 4
    teacher, student = by_hand.ResNet50(), by_hand.MobileNet(classes=10)
    pad_as_keras(teacher, student)
    for layer in (*teacher.modules(), *student.modules()):
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
        elif isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.uniform_(layer.bias, -0.5, 0.5)
            torch.nn.init.uniform_(layer.running_var, 0.5, 1.5)
    hybrid = by_hand.Hybrid(teacher, student, (2, 8, 16))

    shape = (size, size, 3)
    networks = [
        keras_hybrid.applications.load(name, weights=None, input_shape=shape, **kwargs)
        for name, kwargs in (("ResNet50", {}), ("MobileNet", {"classes": 10}))
    ]
    for name, layer in named(teacher):
        networks[0].get_layer(name).set_weights(arrays_of(layer))
    networks[1].get_layer("dropout").rate = 0.0
    pairs = list(
        zip(
            [layer for layer in networks[1].layers if layer.weights],
            with_weights(student),
            strict=True,
        )
    )
    model = keras_hybrid.HybridTransfer(*networks, switch_points=(2, 8, 16))
    pairs += list(zip(model.adapters, hybrid.adapters, strict=True))
    for layer, other in pairs:
        layer.set_weights(arrays_of(other))

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *shape)).astype("float64")
    labels = rng.integers(0, 10, count)
    model.compile(
        keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy", run_eagerly=True
    )
    logs = model.train_on_batch(images, labels, return_dict=True)
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)
    losses = [by_hand.cross_entropy(y_pred, y).item() for y_pred in hybrid(x)]
    names = "student_first_loss", "teacher_first_loss", "student_loss"
    assert [logs[name] for name in names] == pytest.approx(losses, rel=1e-4)
    before = [[x.copy() for x in arrays_of(other)] for _, other in pairs]
    loss = by_hand.training(hybrid, by_hand.hybrid_loss)(x, y)
    assert logs["loss"] == pytest.approx(loss.item(), rel=1e-4)
    for (layer, other), starts in zip(pairs, before):
        for weight, end, start in zip(layer.trainable_weights, arrays_of(other), starts):
            difference = np.linalg.norm(weight - end)
            moved = np.linalg.norm(end - start)  # 0 for a bias that BatchNorm takes off
            assert difference < 1e-3 * moved + 1e-9, weight.path


def test_layers_of_the_paths(by_hand):
    teacher, student = by_hand.ResNet50(), by_hand.MobileNet()
    hybrid = by_hand.Hybrid(teacher, student, (2, 8, 16))
    adapters = set(hybrid.adapters)

    def weighted(path):
        return sum(
            isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
            and "shortcut" not in name
            and layer not in adapters
            for name, layer in path.named_modules()
        )

    assert [weighted(path) for path in hybrid.paths] == [
        46,
        32,
        28,
    ]  # Fig. 6 of the paper
    # What Keras Applications says of ResNet50 without a top, and of MobileNet.
    for network, parameters, states in (
        (teacher, 23_534_592, 53_120),
        (student, 4_231_976, 21_888),
    ):
        assert sum(weight.numel() for weight in network.parameters()) == parameters
        averages = (x for name, x in network.named_buffers() if "running" in name)
        assert sum(x.numel() for x in averages) == states
    assert not any(weight.requires_grad for weight in teacher.parameters())
