"""Synthetic street scenes, so that everything runs without a download.

They replace photographs in demos and tests, are seeded and quick to render. Results on
this synthetic data mean nothing beyond the demo.
"""

from keras_hybrid.data.streets.bodies import KEYPOINTS
from keras_hybrid.data.streets.crops import CLASSES, crops
from keras_hybrid.data.streets.scenes import DOMAINS, LABELS, THINGS, Scene, scene
