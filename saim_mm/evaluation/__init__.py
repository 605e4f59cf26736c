"""How good are frozen features? Probes of any layer, on folders of classes.

* :mod:`encoders` builds an encoder for any of our checkpoints, :mod:`features` runs it
  over images: a data set of :mod:`saim_mm.datasets.class_folders`, or tensors.
* :mod:`knn`, :mod:`linear_probe`, :mod:`best_layer`, :mod:`attentive_probe` and
  :mod:`effective_rank` judge the features, :mod:`probes` puts them in one row, and
  :mod:`judge` does it all, from files to figures.
"""

from ..datasets.class_folders import ClassImages, split_class_folders
from .attentive_probe import AttentiveRecipe, attentive_probe
from .best_layer import LayerCurve, best_layer_probe, hold_out
from .effective_rank import lidar, rankme
from .encoders import build_encoder
from .features import POOLS, FeatureExtractor, Features, Pool, View, Views
from .knn import knn_accuracy, knn_scores
from .layer_accuracy import LayerAccuracy
from .linear_probe import ProbeRecipe, linear_probe
from .probes import KNOWN_PROBES, Probe, build_probes, run_probes, views_of

__all__ = [
    "KNOWN_PROBES",
    "POOLS",
    "AttentiveRecipe",
    "ClassImages",
    "FeatureExtractor",
    "Features",
    "LayerAccuracy",
    "LayerCurve",
    "Pool",
    "Probe",
    "ProbeRecipe",
    "View",
    "Views",
    "attentive_probe",
    "best_layer_probe",
    "build_encoder",
    "build_probes",
    "hold_out",
    "knn_accuracy",
    "knn_scores",
    "lidar",
    "linear_probe",
    "rankme",
    "run_probes",
    "split_class_folders",
    "views_of",
]
