"""Images with one class each."""

import dataclasses

from keras_hybrid.data.sources import ArraySource, EncodedSource


@dataclasses.dataclass(frozen=True)
class ClassificationDataset:
    """Training and test images of the same classes; labels index `class_names`."""

    train: ArraySource | EncodedSource
    test: ArraySource | EncodedSource
    class_names: tuple[str, ...]
    image_size: int | None
    """Height and width in pixels; None for photographs of any size."""
