"""Overfits Faster R-CNN to four images, on both backbones of the paper.

    python -m benchmarks.checks.overfit > benchmarks/checks/overfit.txt

The networks have their full width and train from scratch on the first four synthetic
streets with people, for some minutes each on two cores. Prints the loss before and after,
the number of people found with a score and an IoU of at least 0.5, and the number of
other boxes with such a score.
"""

import keras_hybrid  # noqa: F401  before TensorFlow: oneDNN is on

# isort: split
import keras
import numpy as np
from scipy.optimize import linear_sum_assignment

from keras_hybrid.data import detection
from keras_hybrid.models.detection.faster_rcnn import FasterRCNN
from keras_hybrid.recipes.engine import networks, synthetic

_STEPS = {"MobileNet": 300, "ResNet50": 400}
_LEARNING_RATE = 2e-3
_SCORE, _IOU = 0.5, 0.5


def main() -> None:
    data = synthetic.streets_with_people("day", training_images=4, test_images=1)
    images, truth = next(iter(data.train.batches(4, detection.augment.enlarged(1.0, 32))))
    truth = {name: truth[name] for name in ("boxes", "labels")}
    for name, steps in _STEPS.items():
        keras.utils.set_random_seed(0)
        backbone = networks.from_scratch(name, input_shape=(None, None, 3))
        detector = FasterRCNN(
            backbone, anchor_heights=np.geomspace(16, 384, 11), channels=64, units=256
        )
        schedule = keras.optimizers.schedules.PolynomialDecay(_LEARNING_RATE, steps, 0.0)
        optimizer = keras.optimizers.Adam(schedule, global_clipnorm=10.0)
        detector.compile(optimizer)
        losses = detector.fit(images, truth, epochs=steps, verbose=0).history["loss"]
        found = detector.predict(images, verbose=0)
        overlaps, others = [], 0
        for i in range(len(images)):
            people = truth["boxes"][i][truth["labels"][i] > 0]
            boxes = found["boxes"][i][found["scores"][i] >= _SCORE]
            iou = np.array(keras.utils.bounding_boxes.compute_iou(people, boxes, "xyxy"))
            pairs = iou[linear_sum_assignment(iou, maximize=True)]
            overlaps += [*pairs, *np.zeros(len(people) - len(pairs))]
            others += len(boxes) - int(np.sum(pairs >= _IOU))
        print(
            f"{name}: loss {losses[0]:.3f} at first, {np.mean(losses[-10:]):.3f} in the "
            f"last ten of {steps} steps; {np.sum(np.array(overlaps) >= _IOU)} of "
            f"{len(overlaps)} people found, IoU {min(overlaps):.2f} to "
            f"{max(overlaps):.2f}; {others} other boxes",
            flush=True,
        )


if __name__ == "__main__":
    main()
