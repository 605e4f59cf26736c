"""The method: order -> content stream -> query stream -> head."""

from .baselines.aim import AIMHead, AIMNeck, PrefixReading
from .baselines.crossmae import CrossMAENeck
from .baselines.dino import DINOPretraining
from .baselines.dino_head import DINOHead, DINOProjector
from .baselines.layer_mix import LayerMixNeck
from .baselines.nepa import NEPA, EmbeddingHead
from .baselines.randsac import HierarchicalSegments, RandSACNeck
from .baselines.register_vit import RegisterViT
from .baselines.rotary_vit import RotaryViT
from .baselines.simmim_vit import SimMIMViT
from .baselines.xtra import BlockHead
from .dense.multi_level_vit import MultiLevelViT
from .dense.sync_bn import SyncBNOrBN
from .dense.vit_pyramid import FourLayerPyramid, SimpleFeaturePyramid
from .order import OrderSampler, PatchOrder
from .plan import Plan
from .probing.probe_heads import AttentiveClsHead, LayerwiseClsHead
from .reading import CutReading, FixedReading, StrataReading
from .saim import SAIM
from .saim_head import SAIMHead
from .saim_neck import SAIMNeck
from .saim_vit import SAIMViT

__all__ = [
    "NEPA",
    "SAIM",
    "DINOHead",
    "DINOPretraining",
    "DINOProjector",
    "AIMHead",
    "AIMNeck",
    "AttentiveClsHead",
    "BlockHead",
    "CrossMAENeck",
    "CutReading",
    "EmbeddingHead",
    "FixedReading",
    "FourLayerPyramid",
    "HierarchicalSegments",
    "LayerMixNeck",
    "LayerwiseClsHead",
    "MultiLevelViT",
    "OrderSampler",
    "PatchOrder",
    "Plan",
    "PrefixReading",
    "RandSACNeck",
    "RegisterViT",
    "RotaryViT",
    "SAIMHead",
    "SAIMNeck",
    "SAIMViT",
    "SimMIMViT",
    "SimpleFeaturePyramid",
    "StrataReading",
    "SyncBNOrBN",
]
