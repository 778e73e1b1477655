"""The student for images of one size, which most exports require."""

import keras

from keras_hybrid.export.student import image_input
from keras_hybrid.models.detection.faster_rcnn import FasterRCNN, with_detections

# The strides of all networks that the recipes build divide it.
_MULTIPLE = 32


def at_image_size(
    student: keras.Model, size: tuple[int, int] | None = None
) -> keras.Model:
    """Returns the student for images of one size.

    A `FasterRCNN` then predicts its detections alone, after non-maximum suppression.

    Args:
        student: Model with one image input, (B, H, W, C).
        size: (height, width) of the images in pixels, which must be the student's own
            size if it has one; None for the student's own.

    Returns:
        A Functional model; if `size` is None, `student` itself unless it is a detector.

    Raises:
        ValueError: The student does not take images of this size, or it is a detector of
            any size and `size` is None. The message names the flags of the command line.
    """
    image = image_input(student)
    own = tuple(image.shape[1:3])
    if size is None:
        if not isinstance(student, FasterRCNN):
            return student
        if None in own:
            raise ValueError(
                "--height and --width must be given for a detector that takes images of "
                f"any size. Received: input shape {tuple(image.shape)}"
            )
        size = own
    if any(side not in (None, given) for side, given in zip(own, size)):
        raise ValueError(
            "--height and --width must be those of the images that MODEL takes. "
            f"Received: {_flags(size)} for input shape {tuple(image.shape)}"
        )
    if isinstance(student, FasterRCNN):
        if size != own:
            _require_multiples(size, student.head.strides[-1])
        return with_detections(student, *size)
    network = _built(student, size)
    _require_whole_maps(student, network, size)
    return network


def _flags(size):
    return "--height={} --width={}".format(*size)


def _require_multiples(size, stride):
    if any(side % stride for side in size):
        raise ValueError(
            f"--height and --width must be multiples of {stride}, the largest stride of "
            f"MODEL. Received: {_flags(size)}"
        )


def _built(student, size):
    given = image_input(student)
    image = keras.Input((*size, given.shape[-1]), dtype=given.dtype, name="image")
    try:
        return keras.Model(image, student(image), name=student.name)
    except Exception as error:  # layers and TensorFlow raise different types
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            "--height and --width must be those of images that MODEL takes. Received: "
            f"{_flags(size)}, for which Keras reports: {reason}"
        ) from error


def _require_whole_maps(student, network, size):
    """Raises if an output that is as large as the image at another size is not at this.

    A segmenter resizes the scores of its last feature map by its stride, and thus gives
    another size than the image's if this is no multiple of the stride.
    """
    maps = _map_sizes(network)
    if all(found == size for found in maps):
        return
    whole = tuple(-(-side // _MULTIPLE) * _MULTIPLE for side in size)
    for found, expected in zip(maps, _map_sizes(_built(student, whole))):
        if expected == whole and found != size:
            raise ValueError(
                "--height and --width must be multiples of the stride of MODEL, such as "
                f"{_flags(whole)}. Received: {_flags(size)}, for which it predicts a map "
                f"of {found[0]} x {found[1]} pixels"
            )


def _map_sizes(network):
    """(height, width) of each output that is a map (B, H, W) or (B, H, W, C)."""
    return [tuple(y.shape[1:3]) for y in network.outputs if len(y.shape) in (3, 4)]
