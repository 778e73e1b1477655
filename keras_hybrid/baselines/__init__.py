"""Baselines of hybrid forward, one paper per file, and a model that trains with them."""

from keras_hybrid.baselines.activation_boundaries import ActivationBoundaries
from keras_hybrid.baselines.attention_transfer import AttentionTransfer
from keras_hybrid.baselines.factor_transfer import FactorTransfer
from keras_hybrid.baselines.feature_transfer import METHODS, FeatureTransfer
from keras_hybrid.baselines.fitnet import FitNet
from keras_hybrid.baselines.knowledge_distillation import KnowledgeDistillation
from keras_hybrid.baselines.overhaul import Overhaul
