"""Hyperparameters by module: factors on what was tuned, for a role or for tensors of some names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from mupl.errors import ConfigError, enumerated
from mupl.names import match_globs, some_of
from mupl.parametrization.hyperparameters import FACTORS, tune_problems
from mupl.roles import SPECIAL_ROWS, Info, MultiplierRole, ParamInfo, Role

# name -> {factor: number}, and under "of" what it is for if its name does not say it
Tune = Mapping[str, Mapping[str, Any]]

ROLES = (*map(str, Role), *SPECIAL_ROWS, *map(str, MultiplierRole))


@dataclass(frozen=True)
class Factors:
    """What the hyperparameters of one tensor are multiplied by, as if they had been tuned so.

    Args:
        lr, weight_decay, eps: on the values at the base width.
        init: on the initial std.
        mult: on the multiplier; of a multiplier of the model, on its value.

    Example:
        >>> str(Factors(lr=2, init=0.5))
        'lr*2 init*0.5'
    """

    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0
    init: float = 1.0
    mult: float = 1.0

    def times(self, others: Mapping[str, float]) -> Self:
        """Multiply by other factors; those that are not said are 1."""
        products = {f.name: getattr(self, f.name) * others.get(f.name, 1.0) for f in fields(self)}
        return type(self)(**products)

    def __str__(self) -> str:
        changed = [f.name for f in fields(self) if getattr(self, f.name) != 1]
        return " ".join(f"{name}*{getattr(self, name):g}" for name in changed)


def factors_of(infos: Mapping[str, Info], tune: Tune, weight_decay: float) -> dict[str, Factors]:
    """Return the factors of each tensor and multiplier: the product of all entries that match it.

    A tensor gets what it would get if its hyperparameters had been tuned so at the base width.

    Args:
        tune: a role, a row of the rule tables, or a glob on names -> factors, such as
            `{"hidden": {"lr": 2}, "*.mlp.*": {"init": 0.5}}`. An entry with a name of its own says
            under "of" what it is for: `{"mlp": {"of": "*.mlp.*", "lr": 2}}`.
        weight_decay: what its factors multiply.

    Raises:
        ConfigError: on an entry that matches nothing, or a factor other than 1 that changes
            nothing.
    """
    for problem in tune_problems("tune", tune):
        raise ConfigError(problem)
    found = dict.fromkeys(infos, Factors())
    for name, entry in tune.items():
        matched = _matched(name, entry.get("of", name), infos)
        factors = {key: float(value) for key, value in entry.items() if key != "of"}
        for key, value in factors.items():
            if value != 1:
                _check_acts(f"tune.{name}.{key}", key, matched, weight_decay)
        for tensor in matched:
            found[tensor] = found[tensor].times(factors)
    return found


def _matched(name: str, of: Any, infos: Mapping[str, Info]) -> dict[str, Info]:
    """Return what an entry is for."""
    patterns = [of] if isinstance(of, str) else list(of)
    matched: dict[str, Info] = {}
    for pattern in patterns:
        if pattern in ROLES:
            matched |= {key: x for key, x in infos.items() if pattern in (x.role, x.row)}
        else:
            chosen = match_globs(f"tune.{name}: no role ({', '.join(ROLES)})", [pattern], infos)
            matched |= {key: infos[key] for key in chosen}
    if not matched:
        known = dict.fromkeys(str(info.role) for info in infos.values())
        raise ConfigError(
            f"tune.{name}: the model has nothing of the role {enumerated(patterns)}; it has "
            f"{', '.join(known)}"
        )
    return matched


def _check_acts(key: str, factor: str, matched: Mapping[str, Info], weight_decay: float) -> None:
    """Refuse a factor that changes nothing."""
    if factor == "weight_decay" and weight_decay == 0:
        raise ConfigError(
            f"{key}: multiplies weight_decay=0; say weight_decay=0.1, or leave it out"
        )
    if not any(factor in _acting(info) for info in matched.values()):
        acting = _common(matched.values())
        raise ConfigError(
            f"{key}: changes nothing of {some_of(list(matched))}, which has "
            f"{enumerated(acting) if acting else 'none of these numbers'}"
        )


def _common(infos: Iterable[Info]) -> list[str]:
    acting: set[str] = set()
    for info in infos:
        acting |= _acting(info)
    return [name for name in FACTORS if name in acting]


def _acting(info: Info) -> set[str]:
    """Name the factors that change something of a tensor or a multiplier."""
    if not isinstance(info, ParamInfo):
        return {"mult"}
    acting = {"mult"}
    if not info.frozen:
        acting |= {"lr", "weight_decay", "eps"}
    is_zero = info.init.std == 0 and info.init.mean == 0
    if info.own is not None:
        is_zero = info.own.rms == 0
    if not info.kept and not is_zero:
        acting.add("init")
    return acting
