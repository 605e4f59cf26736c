"""What people do with the package, a function each; ``saim-mm`` has them as verbs."""

from .adapt import adapt
from .convert import convert
from .doctor import doctor
from .embed import embed
from .export import export
from .finetune import finetune
from .knn import knn
from .load_encoder import load_encoder
from .pretrain import pretrain
from .probe import probe
from .report import report

__all__ = [
    "adapt",
    "convert",
    "doctor",
    "embed",
    "export",
    "finetune",
    "knn",
    "load_encoder",
    "pretrain",
    "probe",
    "report",
]
