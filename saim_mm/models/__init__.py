"""The method: order -> content stream -> query stream -> head."""

from .baselines.dino import DINOPretraining
from .baselines.dino_head import DINOHead, DINOProjector
from .baselines.simmim_vit import SimMIMViT
from .dense.multi_level_vit import MultiLevelViT
from .dense.sync_bn import SyncBNOrBN
from .dense.vit_pyramid import FourLayerPyramid, SimpleFeaturePyramid
from .order import OrderSampler, PatchOrder, Plan
from .saim import SAIM
from .saim_head import SAIMHead
from .saim_neck import SAIMNeck
from .saim_vit import SAIMViT

__all__ = [
    "SAIM",
    "DINOHead",
    "DINOPretraining",
    "DINOProjector",
    "FourLayerPyramid",
    "MultiLevelViT",
    "OrderSampler",
    "PatchOrder",
    "Plan",
    "SAIMHead",
    "SAIMNeck",
    "SAIMViT",
    "SimMIMViT",
    "SimpleFeaturePyramid",
    "SyncBNOrBN",
]
