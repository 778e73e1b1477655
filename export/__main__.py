"""Exports a saved student from the command line.

    python -m keras_hybrid.export student.keras student.tflite --quantization=float16
    python -m keras_hybrid.export student.keras student.tflite --quantization=int8 \
        --calibration_data=photographs --labels=labels.txt
    python -m keras_hybrid.export student.keras saved_model
"""

import argparse
import gc
import pathlib
import re
import sys
from collections.abc import Sequence

import keras

from keras_hybrid.export import to_saved_model, to_tflite
from keras_hybrid.export.calibration import IMAGES
from keras_hybrid.export.photographs import photographs
from keras_hybrid.export.student import image_input, load
from keras_hybrid.export.tflite import QUANTIZATIONS


def main(arguments: Sequence[str] | None = None) -> None:
    """Exports a student; a mistake in an argument ends the process with one line."""
    options = _parser().parse_args(arguments)
    try:
        print(_export(options))
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m keras_hybrid.export", description="Export a student."
    )
    parser.add_argument("model", metavar="MODEL.keras")
    parser.add_argument(
        "out", metavar="OUT", help="path of a .tflite file, or of a SavedModel directory"
    )
    parser.add_argument("--quantization", choices=[q for q in QUANTIZATIONS if q])
    parser.add_argument(
        "--image_size",
        metavar="HEIGHTxWIDTH",
        help="image size in pixels, for a student that takes any size",
    )
    parser.add_argument(
        "--calibration_data",
        metavar="FOLDER",
        help="folder with photographs in it or its subfolders, for a student that takes "
        f"raw RGB, RGBA or grey in 0 to 255; up to {IMAGES} are used. int8 requires it",
    )
    parser.add_argument(
        "--labels", metavar="FILE", help="text file in UTF-8 with one class name per line"
    )
    return parser


def _export(options):
    student = load(options.model, "MODEL")
    if options.image_size:
        student = _of_size(student, options.image_size)
    if not options.out.endswith(".tflite"):
        for_tflite = options.quantization, options.calibration_data, options.labels
        if any(for_tflite):
            raise ValueError(
                "OUT must end in .tflite with --quantization, --calibration_data or "
                f"--labels. Received: {options.out}"
            )
        return to_saved_model(student, options.out)
    shape = tuple(image_input(student).shape)
    if None in shape[1:]:
        raise ValueError(
            "A TFLite file takes images of a fixed size, but MODEL takes any size. Set "
            f"one with --image_size=HEIGHTxWIDTH. Received: input shape {shape}"
        )
    data = options.calibration_data
    return to_tflite(
        student,
        options.out,
        quantization=options.quantization,
        calibration_data=data and photographs(data, shape[1:], IMAGES),
        labels=options.labels and _labels(options.labels),
    )


def _of_size(student, image_size):
    """The student with a fixed image size."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", image_size)
    given = image_input(student)
    if match is None or any(
        own not in (None, int(side)) for own, side in zip(given.shape[1:], match.groups())
    ):
        raise ValueError(
            "--image_size must be HEIGHTxWIDTH, such as 224x320, and a size that MODEL "
            f"takes. Received: --image_size={image_size}, input shape "
            f"{tuple(given.shape)}"
        )
    size = map(int, match.groups())
    image = keras.Input((*size, given.shape[-1]), dtype=given.dtype, name="image")
    return keras.Model(image, student(image))


def _labels(path):
    try:
        return pathlib.Path(path).read_text("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--labels must be a text file in UTF-8. Received: --labels={path}, {error}"
        ) from None


if __name__ == "__main__":
    gc.freeze()  # The collector then skips imported objects, also when Python exits.
    main()
