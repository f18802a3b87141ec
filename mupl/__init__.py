"""Tune hyperparameters on a small model, use them on a large one: Maximal Update Parametrization.

Every name below is imported when it is first used. Describing, scaling and initialising a model
need torch and numpy only; what else is needed comes with `pip install "mupl[train]"`.

Public too are what `mupl.optim`, `mupl.data` and `mupl.models` list, and the functions that
`mupl.analysis` and `mupl.figures` name. All other modules are internal: their names may change.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mupl.analysis.coordinates import verdict as verdict
    from mupl.errors import ConfigError as ConfigError
    from mupl.nn.initialize import initialize_ as initialize_
    from mupl.nn.mulinear import MuLinear as MuLinear
    from mupl.optim.groups import check_same_groups as check_same_groups
    from mupl.optim.groups import param_groups as param_groups
    from mupl.optim.groups import with_groups_of as with_groups_of
    from mupl.optim.scaling import scale as scale
    from mupl.parametrization.rules import Parametrization as Parametrization
    from mupl.parametrization.rules import get_parametrization as get_parametrization
    from mupl.parametrization.rules import parametrizations as parametrizations
    from mupl.parametrization.symmetry import shift as shift
    from mupl.roles import Role as Role
    from mupl.roles import Shapes as Shapes
    from mupl.roles import describe as describe
    from mupl.roles import shapes as shapes
    from mupl.stats.recorder import Recorder as Recorder
    from mupl.training.coord_check import coord_check as coord_check
    from mupl.training.hf import hf as hf
    from mupl.training.lr_finder import find_lr as find_lr
    from mupl.training.module import TrainingModule as TrainingModule
    from mupl.training.setup import Setup as Setup

# Public name -> the module that has it
_PUBLIC = {
    # the theory
    "get_parametrization": "mupl.parametrization.rules",
    "parametrizations": "mupl.parametrization.rules",
    "Parametrization": "mupl.parametrization.rules",
    "Role": "mupl.roles",
    "shift": "mupl.parametrization.symmetry",
    # a model, step by step
    "describe": "mupl.roles",
    "shapes": "mupl.roles",
    "Shapes": "mupl.roles",
    "scale": "mupl.optim.scaling",
    "initialize_": "mupl.nn.initialize",
    "param_groups": "mupl.optim.groups",
    # on from a saved state
    "check_same_groups": "mupl.optim.groups",
    "with_groups_of": "mupl.optim.groups",
    # the same in one step
    "Setup": "mupl.training.setup",
    "hf": "mupl.training.hf",
    "TrainingModule": "mupl.training.module",
    "MuLinear": "mupl.nn.mulinear",
    # is it right?
    "coord_check": "mupl.training.coord_check",
    "verdict": "mupl.analysis.coordinates",
    "Recorder": "mupl.stats.recorder",
    "find_lr": "mupl.training.lr_finder",
    "ConfigError": "mupl.errors",
}
__all__ = list(_PUBLIC)

try:
    __version__ = version("mupl")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(
            f"module 'mupl' has no attribute {name!r}; it has {', '.join(_PUBLIC)}"
        )
    try:
        value = getattr(import_module(_PUBLIC[name]), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mupl"):
            raise
        raise ModuleNotFoundError(
            f"mupl.{name} needs the package {error.name}: pip install 'mupl[train]'",
            name=error.name,
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
