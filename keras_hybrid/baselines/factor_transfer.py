"""FT: Kim et al., "Paraphrasing Complex Network: Network Compression via Factor
Transfer", NeurIPS 2018."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from keras_hybrid.baselines.transfer_loss import TransferLoss, unit_vectors
from keras_hybrid.hybrid.adapters import may_differ, resize, supports_jit
from keras_hybrid.training.types import Tensor

# Channels of a factor per channel of the teacher's feature map, k in the paper.
_RATE = 0.5


@keras.saving.register_keras_serializable("keras_hybrid")
class FactorTransfer(TransferLoss):
    """mean(abs(f_teacher - f_student)) of the last stage (Eq. 3).

    The paraphraser's encoder computes the teacher's factors from its feature map, the
    translator the student's. f are the factors of an image as a vector of length 1. The
    mean is over its elements and the images, as in the authors' code. The paper trains
    the paraphraser first; here it trains at the same time, with its own loss alone
    (Eq. 1).

    Args:
        weight: Factor of the loss, except for the paraphraser's own; beta in the paper,
            500.
    """

    takes = "stages"

    def __init__(self, weight: float = 500.0, **kwargs: Any) -> None:
        super().__init__(weight, **kwargs)

    def build(
        self,
        teacher_maps_shape: Sequence[Sequence[int | None]],
        student_maps_shape: Sequence[Sequence[int | None]],
    ) -> None:
        resizes = may_differ(teacher_maps_shape[-1], student_maps_shape[-1])
        self.supports_jit = supports_jit(resizes)
        channels = teacher_maps_shape[-1][-1]
        factors = max(1, round(_RATE * channels))
        policy = self.dtype_policy
        convolution, transposed = layers.Conv2D, layers.Conv2DTranspose
        widths = channels, factors, factors
        self.encoder = _three_convolutions(convolution, widths, policy, "encoder")
        widths = factors, channels, channels
        self.decoder = _three_convolutions(transposed, widths, policy, "decoder")
        widths = student_maps_shape[-1][-1], factors, factors
        self.translator = _three_convolutions(convolution, widths, policy, "translator")
        self.encoder.build(teacher_maps_shape[-1])
        self.decoder.build((*teacher_maps_shape[-1][:-1], factors))
        self.translator.build(student_maps_shape[-1])

    def call(
        self, teacher_maps: Sequence[Tensor], student_maps: Sequence[Tensor]
    ) -> Tensor:
        teacher = teacher_maps[-1]
        factors = self.encoder(teacher, training=True)
        paraphrased = self.decoder(factors, training=True)
        error = ops.cast(paraphrased, "float32") - ops.cast(teacher, "float32")
        student = resize(student_maps[-1], ops.shape(teacher)[1:3])
        of_student = self.translator(student, training=True)
        difference = unit_vectors(of_student) - unit_vectors(ops.stop_gradient(factors))
        return self.weight * ops.mean(ops.abs(difference)) + ops.mean(ops.square(error))


def _three_convolutions(kind, widths, policy, name):
    """Three convolutions, each with BatchNorm and leaky ReLU."""
    network = keras.Sequential(name=name)
    for width in widths:
        network.add(
            kind(width, 3, padding="same", data_format="channels_last", dtype=policy)
        )
        network.add(layers.BatchNormalization(dtype=policy))
        network.add(layers.LeakyReLU(0.1, dtype=policy))
    return network
