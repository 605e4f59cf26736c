"""What training needs beside the model."""

from .broken_image_hook import BrokenImageHook
from .optim_constructor import SAIMOptimWrapperConstructor

__all__ = ["BrokenImageHook", "SAIMOptimWrapperConstructor"]
