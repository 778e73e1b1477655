"""The layouts of classification data that `--data_dir` may point to."""

from keras_hybrid.data.classification import class_folders, imagenet2012, npz
from keras_hybrid.data.folders import find_layout

_LAYOUTS = npz, imagenet2012, class_folders


def open_dataset(data_dir):
    """Opens an `.npz` file, a folder of class folders, or a prepared TFDS `imagenet2012`.

    Images are not read yet, except those of an `.npz`. Nothing is downloaded.

    Args:
        data_dir: Path.

    Returns:
        A `ClassificationDataset`.

    Raises:
        FileNotFoundError, ValueError: There is no such data; the message shows the
            expected layout.
    """
    layout, path = find_layout(data_dir, _LAYOUTS, what="an .npz file or a folder")
    return layout.open_at(path)
