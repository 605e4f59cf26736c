"""How good are frozen features? kNN and a linear probe on folders of classes.

* :mod:`encoders` builds an encoder for any of our checkpoints, :mod:`features` runs it
  over images: a data set of :mod:`saim_mm.datasets.class_folders`, or tensors.
* :mod:`knn` and :mod:`linear_probe` judge the features; :mod:`judge` does it all, from
  files to figures.
"""

from ..datasets.class_folders import ClassImages, split_class_folders
from .encoders import build_encoder
from .features import POOLS, FeatureExtractor, Features, Pool
from .knn import knn_accuracy, knn_scores
from .linear_probe import ProbeRecipe, linear_probe

__all__ = [
    "POOLS",
    "ClassImages",
    "FeatureExtractor",
    "Features",
    "Pool",
    "ProbeRecipe",
    "build_encoder",
    "knn_accuracy",
    "knn_scores",
    "linear_probe",
    "split_class_folders",
]
