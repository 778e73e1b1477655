"""The second stage: what is in a proposal, and where exactly?"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from keras_hybrid.training.types import Tensor


@keras.saving.register_keras_serializable("keras_hybrid")
class BoxHead(layers.Layer):
    """Predicts class and deltas from the features of a box, after two dense layers.

    Args:
        num_classes: Number of classes without the background.
        units: Units of each of the two dense layers.
    """

    def __init__(self, num_classes: int, units: int = 1024, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.units = units

    def build(self, input_shape: Sequence[int | None]) -> None:
        size = input_shape[2] * input_shape[3] * input_shape[4]
        self.hidden = [
            self._dense(self.units, "fc6", size, activation="relu"),
            self._dense(self.units, "fc7", self.units, activation="relu"),
        ]
        # Standard deviations as in Fast R-CNN (Girshick 2015).
        self.classes = self._dense(
            self.num_classes + 1,
            "classes",
            self.units,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        )
        self.deltas = self._dense(
            4,
            "deltas",
            self.units,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.001),
        )

    def _dense(self, units, name, inputs, **kwargs):
        layer = layers.Dense(units, name=name, dtype=self.dtype_policy, **kwargs)
        layer.build((None, None, inputs))
        return layer

    def call(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the predictions from features (B, N, size, size, C).

        Returns:
            float32 logits (B, N, 1 + num_classes), background first, and deltas
            (B, N, 4), the same for all classes.
        """
        x = ops.reshape(pooled, (-1, pooled.shape[1], self.hidden[0].kernel.shape[0]))
        for layer in self.hidden:
            x = layer(x)
        return ops.cast(self.classes(x), "float32"), ops.cast(self.deltas(x), "float32")

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "units": self.units,
        }
