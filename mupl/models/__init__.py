"""Plain modules; a parametrization is put into them from outside."""

from mupl.models.mlp import MLP

__all__ = ["MLP"]
