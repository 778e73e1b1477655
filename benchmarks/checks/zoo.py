"""Which networks of the model zoos are cut, and train as teacher and as student.

    python -m benchmarks.checks.zoo > docs/guides/zoo_table.md

Needs the extra `zoo`: pip install keras_hybrid[zoo]. Each network is a small one of its
family with random weights. As a teacher it takes a step with a MobileNet as the student,
and as a student a step with a MobileNet as the teacher; then the weights of the teacher
must be as before, and the student alone must give what the plain path gives.
"""

import keras_hybrid  # before TensorFlow: oneDNN is on

# isort: split
import importlib.metadata
import warnings
from collections.abc import Callable

import keras
import keras_hub
import numpy as np
from zeromodels import models as zm

from keras_hybrid.hybrid.stages import Network

_SIZE = 64
_SHAPE = (_SIZE, _SIZE, 3)
_TOKENS = {"embed_dim": 32, "depth": 4, "num_heads": 2, "image_size": _SIZE}


def _mit():
    return keras_hub.models.MiTBackbone(
        layerwise_depths=[1, 1, 1, 1],
        num_layers=4,
        layerwise_num_heads=[1, 2, 4, 8],
        layerwise_sr_ratios=[8, 4, 2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        hidden_dims=[16, 32, 48, 64],
        image_shape=_SHAPE,
    )


def _resnet(**options):
    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64, 64, 64],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block",
        image_shape=_SHAPE,
        **options,
    )


def _vit():
    return keras_hub.models.ViTBackbone(
        image_shape=_SHAPE,
        patch_size=16,
        num_layers=4,
        num_heads=2,
        hidden_dim=32,
        mlp_dim=64,
    )


def _hgnet():
    return keras_hub.models.HGNetV2Backbone(
        depths=[1, 1, 2, 1],
        embedding_size=32,
        hidden_sizes=[32, 64, 128, 256],
        stem_channels=[3, 16, 24],
        hidden_act="relu",
        use_learnable_affine_block=False,
        image_shape=_SHAPE,
        stackwise_stage_filters=[
            [24, 16, 32, 1, 3, 3],
            [32, 16, 64, 1, 3, 3],
            [64, 32, 128, 2, 3, 5],
            [128, 64, 256, 1, 3, 5],
        ],
        apply_downsample=[False, True, True, True],
        use_lightweight_conv_block=[False, False, True, True],
    )


def _dinov2(kind, **options):
    return kind(
        num_layers=4,
        hidden_dim=32,
        num_heads=2,
        intermediate_dim=64,
        image_shape=_SHAPE,
        **options,
    )


def _deeplab():
    backbone = keras_hub.models.DeepLabV3Backbone(
        image_encoder=_resnet(),
        spatial_pyramid_pooling_key="P4",
        low_level_feature_key="P2",
        upsampling_size=4,
        dilation_rates=[6, 12, 18],
    )
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone=backbone, num_classes=3)


def _segformer():
    backbone = keras_hub.models.SegFormerBackbone(
        image_encoder=_mit(), projection_filters=32
    )
    return keras_hub.models.SegFormerImageSegmenter(backbone=backbone, num_classes=3)


def _of_size(model, **options):
    return lambda: model(image_size=_SIZE, **options)


NETWORKS: dict[str, dict[str, Callable[[], keras.Model]]] = {
    "zeromodels": {
        "ViT": lambda: zm.vit.ViTModel(**_TOKENS),
        "ViT, every block": lambda: zm.vit.ViTModel(**_TOKENS, as_backbone=True),
        "ViT, classifier": lambda: zm.vit.ViTImageClassify(**_TOKENS),
        "DeiT": lambda: zm.deit.DeiTModel(**_TOKENS),
        "DINOv2": lambda: zm.dino_v2.DinoV2Model(**{**_TOKENS, "image_size": 70}),
        "DINOv3": lambda: zm.dino_v3.DinoV3ViTModel(),
        "Swin": _of_size(zm.swin.SwinModel),
        "Swin, classifier": _of_size(zm.swin.SwinImageClassify),
        "MiT": _of_size(zm.mit.MiTModel),
        "PVT v2": _of_size(zm.pvt_v2.PvtV2Model),
        "SegFormer": _of_size(zm.segformer.SegFormerSemanticSegment),
        "SAM 2": lambda: zm.sam2.SAM2Model(image_size=128),
        "ResNet": _of_size(zm.resnet.ResNetModel),
        "RegNet": _of_size(zm.regnet.RegNetModel),
        "ConvNeXt": _of_size(zm.convnext.ConvNeXtModel),
        "MobileNetV4": _of_size(zm.mobilenetv4.MobileNetV4Model),
        "EfficientNet-Lite": _of_size(zm.efficientnet_lite.EfficientNetLiteModel),
        "MaxViT": lambda: zm.maxvit.MaxViTModel(),
        "NextViT": _of_size(zm.nextvit.NextViTModel),
    },
    "keras-hub": {
        "ResNet": _resnet,
        "ResNetV2": lambda: _resnet(use_pre_activation=True),
        "HGNetV2": _hgnet,
        "MiT": _mit,
        "MiT, classifier": lambda: keras_hub.models.MiTImageClassifier(
            backbone=_mit(), num_classes=4
        ),
        "ViT": _vit,
        "ViT, classifier": lambda: keras_hub.models.ViTImageClassifier(
            backbone=_vit(), num_classes=4
        ),
        "DINOv2": lambda: _dinov2(
            keras_hub.models.DINOV2Backbone,
            patch_size=16,
            num_register_tokens=4,
            position_embedding_shape=_SHAPE,
        ),
        "DINOv3": lambda: _dinov2(keras_hub.models.DINOV3Backbone, patch_size=16),
        "DeiT": lambda: keras_hub.models.DeiTBackbone(
            image_shape=_SHAPE,
            patch_size=16,
            num_layers=4,
            num_heads=2,
            hidden_dim=32,
            intermediate_dim=64,
        ),
        "Swin": lambda: keras_hub.models.SwinTransformerBackbone(
            image_shape=_SHAPE,
            patch_size=4,
            embed_dim=24,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 4, 8],
            window_size=2,
        ),
        "ViTDet": lambda: keras_hub.models.ViTDetBackbone(
            hidden_size=32,
            num_layers=4,
            intermediate_dim=64,
            num_heads=2,
            global_attention_layer_indices=[1, 3],
            patch_size=16,
            window_size=2,
            image_shape=_SHAPE,
            num_output_channels=16,
        ),
        "SegFormer": _segformer,
        "DeepLabV3+": _deeplab,
    },
}


def mobilenet() -> keras.Model:
    """Returns the other network of each pair, for raw RGB of any size."""
    return keras_hybrid.applications.load("MobileNet", weights=None, alpha=0.25)


def stages(network: Network) -> str:
    """Returns the strides of a network, or why it has few."""
    if network.obstacle:
        return network.obstacle
    strides = [cut.stride for cut in network.stage_cuts]
    if len(set(strides)) == 1:
        return f"{len(strides)} of stride {strides[0]}"
    return ", ".join(map(str, strides))


def maps(network: Network) -> str:
    """Returns what a network holds at the end of its last stage."""
    prefix = network.stage_cuts[-1].prefix
    if prefix is None:
        return "maps"
    return f"tokens, {prefix} in front" if prefix else "tokens"


def trains(teacher: keras.Model, student: keras.Model) -> str:
    """Returns "yes" if a step trains the student and leaves the teacher as it was."""
    model = keras_hybrid.HybridTransfer(teacher, student, teacher_preprocessing="inside")
    model.compile("sgd", loss=_mean_square, run_eagerly=True)
    size = [n or _SIZE for n in student.inputs[0].shape[1:3]]
    images = np.random.default_rng(0).uniform(0, 255, (2, *size, 3)).astype("float32")
    frozen = [weight.numpy() for weight in teacher.weights]
    outputs = keras.tree.flatten(student(images, training=False))
    plain = keras.tree.flatten(model.paths[-1](images))
    same = all(np.array_equal(a, b) for a, b in zip(outputs, plain, strict=True))
    if len(outputs) == 1:
        before = [weight.numpy() for weight in student.trainable_weights]
        model.train_on_batch(images, np.zeros(2))
        pairs = zip(before, student.trainable_weights, strict=True)
        same &= any((a != b.numpy()).any() for a, b in pairs)
    pairs = zip(frozen, teacher.weights, strict=True)
    same &= all(np.array_equal(a, b.numpy()) for a, b in pairs)
    return "yes" if same else "no"


def _mean_square(y, y_pred):
    return keras.ops.mean(keras.ops.square(y_pred))


def row(name: str, make: Callable[[], keras.Model]) -> str:
    """Returns a row of the table."""
    network = Network(make(), "model")
    if network.obstacle:
        return f"| {name} | {stages(network)} | | no | no |"
    as_teacher, as_student = trains(make(), mobilenet()), trains(mobilenet(), make())
    return (
        f"| {name} | {stages(network)} | {maps(network)} | {as_teacher} | {as_student} |"
    )


def main() -> None:
    warnings.simplefilter("ignore")  # of the zoos
    for zoo, networks in NETWORKS.items():
        print(
            f"| {zoo} {importlib.metadata.version(zoo)} | stages | hold | teaches "
            "| learns |"
        )
        print("|---|---|---|---|---|")
        for name, make in networks.items():
            print(row(name, make), flush=True)
        print()


if __name__ == "__main__":
    main()
