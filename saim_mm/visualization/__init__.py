"""Pictures of what a model has learnt, and of how a run went.

* :mod:`reconstruction`, :mod:`mae` and :mod:`position_error`: predictions (Figure 3).
* :mod:`attention`: what a patch attends to (Figures 2 and 4).
* :mod:`feature_maps`: which patches are alike.
* :mod:`order_masks`: orders and the masks that follow from them (Figure 5).
* :mod:`completion`, :mod:`kept_patches`, :mod:`completion_sheet`: any-order completion.
* :mod:`layer_curve`: how good the features of each layer are.
* :mod:`loss_curve`, :mod:`scalars`, :mod:`report`: runs, from their work dirs.

It needs matplotlib, as MMEngine's visualiser does; the rest of the package does not
import it.
"""

from ..weights.load_model import load_model
from .attention import attention_maps, attention_sheet, last_attention
from .completion import Completion, complete, hidden_statistics
from .completion_sheet import animation, completion_frames, completion_sheet
from .feature_maps import (
    default_layers,
    feature_maps,
    feature_sheet,
    layer_patches,
    mean_by_place,
    pca_colours,
)
from .figure import HIDDEN, save_gif, save_png, stack
from .from_files import read_images
from .kept_patches import keep_box, keep_drawn, keep_share
from .layer_curve import draw_layer_curve
from .loss_curve import LossCurve, draw_loss_curve, read_loss_curve
from .mae import MAEReconstruction, reconstruct_with_mae
from .order_masks import order_sheet
from .position_error import draw_position_error, patch_errors, position_errors
from .reconstruction import (
    denormalise,
    original_title,
    reconstruction_sheet,
    step_maps,
    to_rgb,
)
from .report import LiveReport, write_report
from .scalars import draw_scalar, draw_scalars, read_scalars

__all__ = [
    "HIDDEN",
    "Completion",
    "LiveReport",
    "LossCurve",
    "MAEReconstruction",
    "animation",
    "attention_maps",
    "attention_sheet",
    "complete",
    "completion_frames",
    "completion_sheet",
    "default_layers",
    "denormalise",
    "draw_layer_curve",
    "draw_loss_curve",
    "draw_position_error",
    "draw_scalar",
    "draw_scalars",
    "feature_maps",
    "feature_sheet",
    "hidden_statistics",
    "keep_box",
    "keep_drawn",
    "keep_share",
    "last_attention",
    "layer_patches",
    "load_model",
    "mean_by_place",
    "order_sheet",
    "original_title",
    "patch_errors",
    "pca_colours",
    "position_errors",
    "read_images",
    "read_loss_curve",
    "read_scalars",
    "reconstruct_with_mae",
    "reconstruction_sheet",
    "save_gif",
    "save_png",
    "stack",
    "step_maps",
    "to_rgb",
    "write_report",
]
