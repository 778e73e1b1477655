"""Exports a saved student from a shell.

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

import keras

from keras_hybrid.export import to_saved_model, to_tflite
from keras_hybrid.export.calibration import IMAGES
from keras_hybrid.export.photographs import photographs
from keras_hybrid.export.student import image_input, load
from keras_hybrid.export.tflite import QUANTIZATIONS


def main(arguments=None):
    """Exports; what is wrong with an argument comes out as one line."""
    options = _parser().parse_args(arguments)
    try:
        print(_export(options))
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m keras_hybrid.export", description="Ship a student."
    )
    parser.add_argument("model", metavar="MODEL.keras")
    parser.add_argument(
        "out", metavar="OUT", help="a .tflite file, or a SavedModel's directory"
    )
    parser.add_argument("--quantization", choices=[q for q in QUANTIZATIONS if q])
    parser.add_argument(
        "--image_size",
        metavar="HEIGHTxWIDTH",
        help="in pixels, of the images of a student that takes any size",
    )
    parser.add_argument(
        "--calibration_data",
        metavar="FOLDER",
        help="of photographs, also in subfolders, for a student that takes raw RGB, RGBA "
        f"or grey in 0 to 255; up to {IMAGES} are used. int8 needs them",
    )
    parser.add_argument("--labels", metavar="FILE", help="a name a line, in UTF-8")
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
            "A TFLite file takes images of a fixed size, and MODEL those of any: set it "
            f"by --image_size=HEIGHTxWIDTH. Received: input shape {shape}"
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
    """The same network for images of one size."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", image_size)
    free = image_input(student)
    if match is None or any(
        own not in (None, int(side)) for own, side in zip(free.shape[1:], match.groups())
    ):
        raise ValueError(
            "--image_size must be HEIGHTxWIDTH, such as 224x320, as MODEL takes it. "
            f"Received: --image_size={image_size}, input shape {tuple(free.shape)}"
        )
    size = map(int, match.groups())
    image = keras.Input((*size, free.shape[-1]), dtype=free.dtype, name="image")
    return keras.Model(image, student(image))


def _labels(path):
    try:
        return pathlib.Path(path).read_text("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--labels must be a text file in UTF-8. Received: --labels={path}, {error}"
        ) from None


if __name__ == "__main__":
    gc.freeze()  # The collector then skips what is imported, also when Python ends.
    main()
