"""The method: order -> content stream -> query stream -> head."""

from .order import PatchOrder
from .saim import SAIM
from .saim_head import SAIMHead
from .saim_neck import SAIMNeck
from .saim_vit import SAIMViT

__all__ = ["SAIM", "PatchOrder", "SAIMHead", "SAIMNeck", "SAIMViT"]
