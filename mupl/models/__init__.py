"""Plain modules; a parametrization is put into them from outside."""

from mupl.models.gpt import GPT
from mupl.models.library import from_config, from_library
from mupl.models.mlp import MLP
from mupl.models.resnet import ResNet

__all__ = ["GPT", "MLP", "ResNet", "from_config", "from_library"]
