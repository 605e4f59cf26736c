"""What training needs beside the model."""

from .broken_image_hook import BrokenImageHook
from .knn_hook import KNNHook
from .knn_loop import KNNLoop
from .optim_constructor import SAIMOptimWrapperConstructor
from .throughput_hook import ThroughputHook

__all__ = [
    "BrokenImageHook",
    "KNNHook",
    "KNNLoop",
    "SAIMOptimWrapperConstructor",
    "ThroughputHook",
]
