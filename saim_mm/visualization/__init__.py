"""Pictures of what a model has learnt, and of how a run went."""

from .figure import save_png
from .loss_curve import LossCurve, draw_loss_curve, read_loss_curve
from .reconstruction import denormalise, reconstruction_sheet, step_maps, to_rgb

__all__ = [
    "LossCurve",
    "denormalise",
    "draw_loss_curve",
    "read_loss_curve",
    "reconstruction_sheet",
    "save_png",
    "step_maps",
    "to_rgb",
]
