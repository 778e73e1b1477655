"""What an export wrote, and how close it is to the Keras model."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """The result of `to_saved_model` or `to_tflite`, measured on the written file.

    Attributes:
        filepath: Path of the file or SavedModel directory, as a string.
        size_bytes: Size of the file in bytes; of a SavedModel, the sum over its files.
        max_abs_error: Largest absolute difference from Keras over all elements of all
            outputs, in the unit of the outputs, on the calibration images or a few
            seeded ones.
        agreement: Share (0 to 1) of positions whose argmax over the last axis is the
            same as in Keras, over all outputs with more than one channel; 1.0 if there
            is none.
        ops: Sorted names of the TFLite operators in the file, such as `"CONV_2D"`;
            empty for a SavedModel.
        input_signature: Maps the input's name to `(shape, dtype)`, such as
            `{"image": ((1, 224, 224, 3), "float32")}`; `None` is an axis of any size.
        output_signature: The same for the outputs.
    """

    filepath: str
    size_bytes: int
    max_abs_error: float
    agreement: float
    ops: tuple[str, ...]
    input_signature: dict[str, tuple[tuple[int | None, ...], str]]
    output_signature: dict[str, tuple[tuple[int | None, ...], str]]

    def __str__(self) -> str:
        inputs, outputs = map(_one_line, (self.input_signature, self.output_signature))
        return (
            f"{self.filepath}: {self.size_bytes / 1e6:.2f} MB, {inputs} -> {outputs}, "
            f"max_abs_error={self.max_abs_error:.2g}, agreement={self.agreement:.4f}"
        )


def _one_line(signature):
    return ", ".join(f"{name} {shape}" for name, (shape, _) in signature.items())
