"""Baselines of hybrid forward, one paper per file, and a model that trains with them."""

from keras_hybrid.baselines.feature_transfer import METHODS, FeatureTransfer
