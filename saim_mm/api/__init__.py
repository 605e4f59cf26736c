"""What people do with the package, a function each; ``saim-mm`` has them as verbs."""

from .adapt import adapt
from .convert import convert
from .doctor import doctor
from .finetune import finetune
from .pretrain import pretrain
from .report import report

__all__ = ["adapt", "convert", "doctor", "finetune", "pretrain", "report"]
