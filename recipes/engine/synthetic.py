"""Synthetic data sets: rendered streets for each task."""

import numpy as np

from keras_hybrid.data import classification, detection, segmentation, streets
from keras_hybrid.data.sources import ArraySource

STREET_SIZE = 128, 256
"""(height, width) of the streets in pixels."""
STREET_CROP = 64, 128
"""(height, width) of training crops in pixels: small, so that many steps take minutes."""
MIN_HEIGHT = 16
"""Height in pixels of the smallest people to train on."""

_PERSONS = "pedestrian", "rider"


def street_crops(
    training_images: int = 4000, test_images: int = 1000
) -> classification.ClassificationDataset:
    """Returns crops (32, 32) of single things on streets, with their classes."""
    size = 32
    train, test = (
        classification.ArraySource(*streets.crops(count, size=size, seed=seed))
        for seed, count in enumerate((training_images, test_images))
    )
    return classification.ClassificationDataset(train, test, streets.CLASSES, size)


def streets_with_labels(
    domain: str, training_images: int = 400, test_images: int = 100
) -> segmentation.SegmentationDataset:
    """Returns streets of a domain, `"day"` or `"dusk"`, with label maps."""

    def source(count, seed):
        scenes = [
            streets.scene(i, size=STREET_SIZE, domain=domain, seed=seed)
            for i in range(count)
        ]
        images = np.stack([scene.image for scene in scenes])
        labels = np.stack([scene.label_map for scene in scenes])
        return segmentation.source_of_arrays(images, labels)

    return segmentation.SegmentationDataset(
        source(training_images, seed=0), source(test_images, seed=1), streets.LABELS
    )


def streets_with_people(
    domain: str,
    training_images: int = 400,
    test_images: int = 100,
    min_height: float = MIN_HEIGHT,
) -> detection.DetectionDataset:
    """Returns streets of a domain, `"day"` or `"dusk"`, with boxes around people.

    People of less than `min_height` pixels are ignored in training.
    """

    def source(count, seed):
        scenes = [
            streets.scene(i, size=STREET_SIZE, domain=domain, seed=seed)
            for i in range(count)
        ]
        return detection.DetectionSource(
            ArraySource(np.stack([scene.image for scene in scenes]), np.arange(count)),
            [f"{domain} street {i}" for i in range(count)],
            [_people_of(scene) for scene in scenes],
            min_height=min_height,
        )

    return detection.DetectionDataset(source(training_images, 0), source(test_images, 1))


def _people_of(scene):
    """The `People` of a scene; riders are ignored, as in CityPersons."""
    persons = np.isin(scene.classes, [streets.THINGS.index(n) for n in _PERSONS])
    boxes, shown = scene.boxes[persons], scene.visible_boxes[persons]
    visibility = (shown[:, 2] * shown[:, 3]) / (boxes[:, 2] * boxes[:, 3])
    riders = scene.classes[persons] == streets.THINGS.index("rider")
    return detection.People(boxes.astype("float64"), visibility.clip(0, 1), riders)
