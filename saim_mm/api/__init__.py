"""What people do with the package, a function each; ``saim-mm`` has them as verbs."""

from .adapt import adapt

__all__ = ["adapt"]
