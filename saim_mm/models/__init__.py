"""The method: order -> content stream -> query stream -> head."""

from .order import PatchOrder
from .saim import SAIM
from .saim_head import SAIMHead
from .saim_neck import SAIMNeck
from .saim_vit import SAIMViT
from .simmim_vit import SimMIMViT
from .sync_bn import SyncBNOrBN
from .vit_pyramid import FourLayerPyramid, SimpleFeaturePyramid

__all__ = [
    "SAIM",
    "FourLayerPyramid",
    "PatchOrder",
    "SAIMHead",
    "SAIMNeck",
    "SAIMViT",
    "SimMIMViT",
    "SimpleFeaturePyramid",
    "SyncBNOrBN",
]
