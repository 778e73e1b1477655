"""Exports a saved student from a shell.

    python -m keras_hybrid.export student.keras student.tflite --quantization=float16
    python -m keras_hybrid.export student.keras student.tflite --quantization=int8 \
        --calibration_data=photographs --labels=labels.txt
    python -m keras_hybrid.export student.keras saved_model
"""

import argparse
import pathlib
import sys

import keras

from keras_hybrid.export import to_saved_model, to_tflite
from keras_hybrid.export.calibration import IMAGES
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
        "--calibration_data",
        metavar="FOLDER",
        help=f"of images, also in subfolders; up to {IMAGES} are used. int8 needs them",
    )
    parser.add_argument("--labels", metavar="FILE", help="a name a line")
    return parser


def _export(options):
    student = load(options.model, "MODEL")
    if not options.out.endswith(".tflite"):
        for_tflite = options.quantization, options.calibration_data, options.labels
        if any(for_tflite):
            raise ValueError(
                "OUT must end in .tflite with --quantization, --calibration_data or "
                f"--labels. Received: {options.out}"
            )
        return to_saved_model(student, options.out)
    labels = options.labels and pathlib.Path(options.labels).read_text().splitlines()
    return to_tflite(
        student,
        options.out,
        quantization=options.quantization,
        calibration_data=options.calibration_data and _images(student, options),
        labels=labels,
    )


def _images(student, options):
    """Photographs of the folder, cropped and resized to what the student takes."""
    _, height, width, _ = image_input(student).shape
    return keras.utils.image_dataset_from_directory(
        options.calibration_data,
        labels=None,
        batch_size=None,
        image_size=(height, width),
        crop_to_aspect_ratio=True,
        seed=0,
        verbose=False,
    )
