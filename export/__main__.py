"""Exports a saved student from the command line.

    python -m keras_hybrid.export student.keras student.tflite --quantization=float16
    python -m keras_hybrid.export student.keras student.tflite --quantization=int8 \
        --calibration_data=photographs --labels=labels.txt
    python -m keras_hybrid.export student.keras saved_model

Detectors and segmenters of the recipes take images of any size, and are exported for one:

    python -m keras_hybrid.export detector.keras detector.tflite \
        --height=512 --width=1024
    python -m keras_hybrid.export segmenter.keras segmenter.tflite \
        --height=512 --width=1024 --label_map
"""

import argparse
import gc
import os
import pathlib
import re
import sys
from collections.abc import Sequence

from keras_hybrid.export import to_saved_model, to_tflite
from keras_hybrid.export.calibration import IMAGES
from keras_hybrid.export.image_size import at_image_size
from keras_hybrid.export.photographs import photographs
from keras_hybrid.export.student import image_input, load
from keras_hybrid.export.tflite import QUANTIZATIONS
from keras_hybrid.models.segmentation.deeplab_v2 import with_label_map


def main(arguments: Sequence[str] | None = None) -> None:
    """Exports a student; a mistake in an argument ends the process with one line."""
    options = _parser().parse_args(arguments)
    try:
        print(_export(options))
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        print("Interrupted. Nothing was written.", file=sys.stderr)
        sys.exit(128 + 2)  # a shell's exit status for SIGINT


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m keras_hybrid.export", description="Export a student."
    )
    parser.add_argument("model", metavar="MODEL.keras")
    parser.add_argument(
        "out", metavar="OUT", help="path of a .tflite file, or of a SavedModel directory"
    )
    parser.add_argument("--quantization", choices=[q for q in QUANTIZATIONS if q])
    for side in ("height", "width"):
        parser.add_argument(
            f"--{side}",
            metavar="PIXELS",
            help=f"{side} of the images, for a student that takes any size",
        )
    parser.add_argument(
        "--image_size",
        metavar="HEIGHTxWIDTH",
        help="short for --height=HEIGHT --width=WIDTH",
    )
    parser.add_argument(
        "--label_map",
        action="store_true",
        help="output the most likely class of each pixel, for a segmenter",
    )
    parser.add_argument(
        "--calibration_data",
        type=os.path.expanduser,  # a shell leaves the ~ of --flag=~/folder as it is
        metavar="FOLDER",
        help="folder with photographs in it or its subfolders, for a student that takes "
        f"raw RGB, RGBA or grey in 0 to 255; up to {IMAGES} are used. int8 requires it",
    )
    parser.add_argument(
        "--labels",
        type=os.path.expanduser,
        metavar="FILE",
        help="text file in UTF-8 with one class name per line",
    )
    return parser


def _export(options):
    _check_flags(options)
    model = load(options.model, "MODEL")
    student = at_image_size(getattr(model, "student", model), _size(options))
    if options.label_map:
        student = _with_label_map(student)
    out = pathlib.Path(options.out)
    if out.suffix != ".tflite":
        return to_saved_model(student, out)
    shape = tuple(image_input(student).shape)
    if None in shape[1:]:
        raise ValueError(
            "A TFLite file takes images of a fixed size, but MODEL takes any size. Set "
            f"one with --height and --width. Received: input shape {shape}"
        )
    data = options.calibration_data
    return to_tflite(
        student,
        out,
        quantization=options.quantization,
        calibration_data=data and photographs(data, shape[1:], IMAGES),
        labels=options.labels and _labels(options.labels),
    )


def _check_flags(options):
    """Refuses flags that do not go together, before anything is loaded."""
    for_tflite = options.quantization, options.calibration_data, options.labels
    suffix = pathlib.PurePath(options.out).suffix
    if suffix != ".tflite" and (any(for_tflite) or suffix[1:].isalpha()):
        raise ValueError(
            "OUT must end in .tflite, or be a directory for a SavedModel, which has no "
            "suffix and takes no --quantization, --calibration_data or --labels. "
            f"Received: {options.out}"
        )
    if options.quantization == "int8" and not options.calibration_data:
        raise ValueError(
            "--quantization=int8 must come with --calibration_data=FOLDER, about 100 "
            "photographs as the student will see them"
        )


def _size(options):
    """(height, width) in pixels, or None if the flags for it are not given."""
    names = "height", "width", "image_size"
    given = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    if not given:
        return None
    text = given.get("image_size", f"{options.height}x{options.width}")
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None or given.keys() not in ({"height", "width"}, {"image_size"}):
        raise ValueError(
            "--height and --width must be given together, in whole pixels, or "
            "--image_size=HEIGHTxWIDTH in their place. Received: "
            + ", ".join(f"--{name}={value}" for name, value in given.items())
        )
    return int(match[1]), int(match[2])


def _with_label_map(student):
    shapes = [tuple(y.shape) for y in getattr(student, "outputs", ())]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] > 256:
        raise ValueError(
            "--label_map is for a segmenter, whose output has a score for each pixel and "
            f"each of up to 256 classes. Received: output shapes {shapes}"
        )
    return with_label_map(student)


def _labels(path):
    try:
        return pathlib.Path(path).read_text("utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--labels must be a text file in UTF-8. Received: --labels={path}, {error}"
        ) from None


if __name__ == "__main__":
    gc.freeze()  # The collector then skips imported objects, also when Python exits.
    main()
