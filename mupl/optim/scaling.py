"""The door to the scaling rules, for names or objects."""

from collections.abc import Callable, Mapping

from torch.optim import Optimizer

from mupl.errors import ConfigError
from mupl.optim.registry import OPTIMIZERS, OptimizerLike, optimizer_rules, resolve
from mupl.parametrization.rules import Parametrization, as_parametrization
from mupl.parametrization.scales import Scale, compute_scales
from mupl.parametrization.update_kinds import OptimizerRules, UpdateKind, as_optimizer_rules
from mupl.roles import Info, MultiplierInfo, ParamInfo


def scale(
    infos: Mapping[str, Info],
    parametrization: str | Parametrization,
    optimizer: OptimizerLike | UpdateKind | OptimizerRules,
    *,
    lr: float,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    weight_decay_mode: str = "decoupled",
) -> dict[str, Scale]:
    """Return the numbers of each tensor and multiplier, from the values tuned at the base width.

    With f the factor on the learning rate, the weight decay of a tensor is (PyTorch multiplies it
    by the learning rate):

    - "coupled": `weight_decay`;
    - "decoupled": `weight_decay / f`, so that `lr * weight_decay` does not change with width; where
      the table has a column `wd`, that times `weight_decay`;
    - "independent": `weight_decay / (f * lr)`, so that a step decays by `weight_decay` times the
      schedule, whatever lr.

    The layer's own `lr_scale` (alpha) goes where the table names it, else into f.

    Args:
        infos: what `describe` returns.
        parametrization: a name or an object.
        optimizer: a name ("adamw", ...), a torch optimizer class, a `functools.partial` of one, an
            update kind ("sgd", "adam", "orthogonal"), or `OptimizerRules`.

    Raises:
        ConfigError: on bad values, or an optimizer that there are no rules for.

    Example:
        >>> from torch import nn, optim
        >>> from mupl.roles import describe
        >>> infos = describe(lambda width: nn.Linear(width, width), width=32, base_width=8)
        >>> scale(infos, "mup", optim.AdamW, lr=0.1)["weight"].lr
        0.025
    """
    if not _are_infos(infos):
        raise ConfigError("infos: must be what mupl.describe(build, width, base_width) returns")
    return compute_scales(
        infos,
        as_parametrization(parametrization),
        rules_of(optimizer),
        lr=lr,
        eps=eps,
        weight_decay=weight_decay,
        weight_decay_mode=weight_decay_mode,
    )


def rules_of(optimizer: OptimizerLike | UpdateKind | OptimizerRules) -> OptimizerRules:
    """Return the rules that an optimizer follows, given in any of the ways that `scale` takes.

    Raises:
        ConfigError: if it is not known.
    """
    if isinstance(optimizer, OptimizerRules):
        return optimizer
    if isinstance(optimizer, str) and optimizer in list(UpdateKind):
        return as_optimizer_rules(optimizer)
    if isinstance(optimizer, Optimizer):
        optimizer = type(optimizer)
    if isinstance(optimizer, str | Callable):
        return optimizer_rules(resolve(optimizer))
    raise ConfigError(
        f"optimizer={optimizer}: must be one of {', '.join(OPTIMIZERS)}, a torch optimizer class "
        f"or a partial of one, an update kind ({', '.join(UpdateKind)}), or OptimizerRules"
    )


def _are_infos(infos: object) -> bool:
    if not isinstance(infos, Mapping):
        return False
    return all(isinstance(info, ParamInfo | MultiplierInfo) for info in infos.values())
