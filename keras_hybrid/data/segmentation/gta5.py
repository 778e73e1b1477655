"""GTA5 (Richter et al. 2016): rendered streets with the classes of Cityscapes.

Folders in this layout may name other classes in a `classes.txt`.
"""

import pathlib

import numpy as np

from keras_hybrid.data.segmentation import class_names
from keras_hybrid.data.segmentation.cityscapes import CLASS_OF, CLASSES
from keras_hybrid.data.segmentation.dataset import (
    IGNORED,
    SegmentationDataset,
    pairs_in,
    source_of_files,
    values_in,
)

LAYOUT = (
    "GTA5: images/*.png and labels/*.png with the same names; for other classes, also "
    "classes.txt with the name of class n on line n+1"
)

_HELD_OUT = 500
"""Number of randomly sampled test images (paper, "Datasets")."""


def is_at(path: pathlib.Path) -> bool:
    """Whether a folder looks like GTA5."""
    return (path / "images").is_dir() and (path / "labels").is_dir()


def open_at(path: pathlib.Path) -> SegmentationDataset:
    """Opens a folder of this layout as a `SegmentationDataset`.

    Without a `classes.txt` (see `class_names.read`) the classes are GTA5's. The paper
    does not say which 500 images it tests on; here they are sampled with a fixed seed.
    With fewer than 5000 images, a tenth is held out.
    """
    pairs, left_out, count = pairs_in(path / "images", path / "labels")
    if len(pairs) < 2:
        raise FileNotFoundError(
            f"{path} must hold at least two images with label maps. Received: "
            f"{len(pairs) + len(left_out)} images, {count} label maps, {len(pairs)} of "
            f"the same name. Expected {LAYOUT}"
        )
    file = path / "classes.txt"
    if file.exists():
        classes, class_of = class_names.read(file)
    else:
        _check_values(path, values_in(pairs))
        classes, class_of = CLASSES, CLASS_OF
    held_out = min(_HELD_OUT, max(1, len(pairs) // 10))
    order = np.random.default_rng(0).permutation(len(pairs))
    test, train = (
        [pairs[i] for i in sorted(part)] for part in (order[:held_out], order[held_out:])
    )
    return SegmentationDataset(
        source_of_files(train, class_of, left_out),
        source_of_files(test, class_of),
        classes,
    )


def _check_values(path, values):
    """Rejects labels that count up from 0 or 1, as GTA5's ids never do."""
    counted = sorted(values - {IGNORED})
    if counted and counted[0] <= 1 and counted == [*range(counted[0], counted[-1] + 1)]:
        raise ValueError(
            f"{path / 'labels'} must hold ids of GTA5, 7 (road) to 33 (bicycle). "
            f"Received: {counted[0]} to {counted[-1]}. For other classes, name them in "
            f"{path / 'classes.txt'}, class n on line n+1"
        )
