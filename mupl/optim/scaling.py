"""The door to the scaling rules, for names or objects."""

from collections.abc import Mapping
from typing import Any

from mupl.errors import ConfigError
from mupl.optim.registry import OptimizerLike, optimizer_rules
from mupl.parametrization.per_module import Tune
from mupl.parametrization.rules import Parametrization, as_parametrization
from mupl.parametrization.scales import Scale, compute_scales
from mupl.parametrization.update_kinds import OptimizerRules, UpdateKind
from mupl.roles import Info, MultiplierInfo, ParamInfo


def scale(
    infos: Mapping[str, Info],
    parametrization: str | Parametrization,
    optimizer: OptimizerLike | UpdateKind | OptimizerRules,
    *,
    lr: float,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    weight_decay_mode: str | float = "decoupled",
    tune: Tune | None = None,
) -> dict[str, Scale]:
    """Return the numbers of each tensor and multiplier, from the values tuned at the base width.

    With f the factor on the learning rate, the weight decay of a tensor is (PyTorch multiplies it
    by the learning rate):

    - "coupled": `weight_decay`;
    - "decoupled": `weight_decay / f`, so that `lr * weight_decay` does not change with width; where
      the table has a column `wd`, that times `weight_decay`;
    - a number p: that times `m_in^-p`, so that `lr * weight_decay ~ m_in^-p`; "decoupled" is 0;
    - "independent": `weight_decay / (f * lr)`, so that a step decays by `weight_decay`.

    The layer's own `lr_scale` (alpha) goes where the table names it, else into f.

    Args:
        infos: what `describe` returns.
        parametrization: a name or an object.
        optimizer: a name ("adamw", ...), a torch optimizer class, a `functools.partial` of one, an
            update kind ("sgd", "adam", "orthogonal"), or `OptimizerRules`.
        tune: factors by role or glob on names, such as `{"hidden": {"lr": 2, "init": 0.5}}`; see
            `mupl.parametrization.per_module.factors_of`.

    Raises:
        ConfigError: on bad values, or an optimizer that there are no rules for.

    Example:
        >>> from torch import nn, optim
        >>> from mupl.roles import describe
        >>> infos = describe(lambda width: nn.Linear(width, width), width=32, base_width=8)
        >>> scale(infos, "mup", optim.AdamW, lr=0.1)["weight"].lr
        0.025
        >>> scale(infos, "mup", optim.AdamW, lr=0.1, tune={"hidden": {"lr": 2}})["weight"].lr
        0.05
    """
    if not _are_infos(infos):
        raise ConfigError("infos: must be what mupl.describe(build, width, base_width) returns")
    tuned: dict[str, Any] = {"lr": lr, "eps": eps, "weight_decay": weight_decay}
    tuned |= {"weight_decay_mode": weight_decay_mode, "tune": tune}
    rules = as_parametrization(parametrization), optimizer_rules(optimizer)
    return compute_scales(infos, *rules, **tuned)


def _are_infos(infos: object) -> bool:
    if not isinstance(infos, Mapping):
        return False
    return all(isinstance(info, ParamInfo | MultiplierInfo) for info in infos.values())
