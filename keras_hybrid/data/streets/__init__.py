"""Drawn street scenes, so that everything runs without a download.

A stand-in for photographs: seeded, quick, and evidence of nothing.
"""

from keras_hybrid.data.streets.bodies import KEYPOINTS
from keras_hybrid.data.streets.crops import CLASSES, crops
from keras_hybrid.data.streets.scenes import DOMAINS, LABELS, THINGS, Scene, scene
