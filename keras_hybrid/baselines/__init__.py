"""Rivals to compare hybrid forward with: one file a paper, and a model that trains."""

from keras_hybrid.baselines.feature_transfer import METHODS, FeatureTransfer
