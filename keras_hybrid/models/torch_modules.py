"""PyTorch modules as teachers, where Keras runs on PyTorch."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_hybrid.training.types import Tensor


def from_stages(
    stages: Sequence[Any],
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    name: str = "torch_teacher",
) -> keras.Model:
    """Makes a Functional model of the stages of a PyTorch network.

    Each module takes what the one before it returns, as in `nn.Sequential`; the first one
    takes images. A path of `HybridTransfer` can change network behind each module. Keras
    must run on PyTorch: set `KERAS_BACKEND=torch` before it is imported.

    Args:
        stages: Modules (`torch.nn.Module`) from feature maps (B, C, H, W), or tokens (B,
            N, C), to one of these.
        input_shape: (height, width, channels) of the images, None for any size.
        name: Name of the model.

    Returns:
        A model from images (B, H, W, C) to the last map (B, h, w, C) or tokens. It shares
        the weights of the modules, which run in evaluation mode unless it trains.

    Raises:
        ValueError: Keras does not run on PyTorch, or there is no module.
    """
    if keras.backend.backend() != "torch":
        raise ValueError(
            "PyTorch modules can be teachers only where Keras runs on PyTorch: set "
            "KERAS_BACKEND=torch before Keras is imported. Received: "
            f"{keras.backend.backend()}"
        )
    if not stages:
        raise ValueError("`stages` must have at least one module.")
    x = image = keras.Input(input_shape, name="image")
    for i, module in enumerate(stages, start=1):
        x = TorchStage(module, name=f"stage{i}")(x)
    return keras.Model(image, x, name=name)


@keras.saving.register_keras_serializable("keras_hybrid")
class TorchStage(keras.layers.TorchModuleWrapper):
    """A PyTorch module between feature maps (B, H, W, C), or tokens (B, N, C)."""

    # Without `training`, the wrapper of Keras would update moving averages.
    def call(self, x: Tensor, training: bool = False) -> Tensor:
        import torch

        x = x.permute(0, 3, 1, 2) if x.ndim == 4 else x
        # Keras has cast the input to its dtype, but not the weights of the module.
        casts = x.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(x.device.type, x.dtype, enabled=casts):
            x = super().call(x, training=bool(training))
        return x.permute(0, 2, 3, 1) if x.ndim == 4 else x

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # A layer's own would ask the wrapper for an output shape that it does not know.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)
