"""The abc-symmetry: what may be changed in a parametrization without changing any trajectory."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mupl.errors import ConfigError
from mupl.parametrization.cells import Monomial
from mupl.parametrization.rules import ONE, Parametrization, Rule, as_parametrization
from mupl.parametrization.update_kinds import DERIVED, RELATIVES
from mupl.roles import SPECIAL_ROWS, Role

# With mult *= theta and init /= theta go lr /= theta^p and eps *= theta^q, by update kind (p, q).
_POWERS = {"sgd": (2, 0), "adam": (1, 1), "orthogonal": (1, 0)}
_POWERS |= dict.fromkeys(map(str, DERIVED), _POWERS["adam"])
_POWERS |= dict.fromkeys(map(str, RELATIVES), (0, 1))

Theta = Monomial | str | float


def shift_rule(rule: Rule, theta: Theta, update_kind: str) -> Rule:
    """Return the equivalent rule with `mult *= theta, init /= theta`.

    Under SGD `lr /= theta^2`; under updates that are invariant to the scale of the gradient
    `lr /= theta`, and where these have an epsilon (all but `orthogonal`) `eps *= theta`. An lr that
    is relative to the tensor stays. Weight decay is multiplied by what lr is divided by; where it
    follows from lr it does so by itself.
    (Tensor Programs V, Lemma J.1.)

    Raises:
        KeyError: on an update kind whose symmetry is not known.
    """
    theta = Monomial.parse(theta)
    lr_power, eps_power = _POWERS[update_kind]
    wd = rule.wd
    if wd is not None:
        wd *= theta**lr_power
    return replace(
        rule,
        mult=rule.mult * theta,
        init=rule.init / theta,
        lr=rule.lr / theta**lr_power,
        eps=rule.eps * theta**eps_power,
        wd=wd,
    )


def theta_between(before: Rule, after: Rule, update_kind: str) -> Monomial | None:
    """Return the theta that shifts one rule into the other; None if none does."""
    theta = after.mult / before.mult
    return theta if shift_rule(before, theta, update_kind) == after else None


def shift(
    parametrization: str | Parametrization,
    theta: Mapping[Role, Theta] | Mapping[str, Theta],
    update_kinds: str | Sequence[str],
) -> Parametrization:
    """Return the parametrization moved by one theta for each role (1 where none is given).

    Args:
        parametrization: one of the names, or what `get_parametrization` returns.
        theta: role -> what multiplies `mult`.
        update_kinds: the update kinds that the result has rules for, or the only one.

    Raises:
        ConfigError: on an unknown parametrization, role or update kind, or a theta that is no cell.

    Example:
        Table 3 of Tensor Programs V is Table 8 with the multiplier of the readout taken off:

        >>> from mupl.parametrization.rules import get_parametrization
        >>> moved = shift("mup", {"output": "m_in"}, "adam")
        >>> table_3 = get_parametrization("mup_table3")
        >>> moved.rule("adam", "output") == table_3.rule("adam", "output")
        True
    """
    parametrization = as_parametrization(parametrization)
    factors = _by_role(theta)
    rules = {}
    for update_kind in [update_kinds] if isinstance(update_kinds, str) else update_kinds:
        if update_kind not in _POWERS:
            raise ConfigError(f"update_kinds={update_kind}: must be among {', '.join(_POWERS)}")
        moved = dict(parametrization.rules_of(update_kind))
        special = [row for row in SPECIAL_ROWS if row in moved]
        for row in (*Role, *special):
            factor = factors.get(Role(SPECIAL_ROWS.get(row, row)), ONE)
            rule = parametrization.rule(update_kind, row)
            moved[row] = shift_rule(rule, factor, update_kind)
        rules[update_kind] = moved
    return replace(parametrization, name=f"{parametrization.name}*", rules=rules)


def _by_role(theta: Mapping[Role, Theta] | Mapping[str, Theta]) -> dict[Role, Monomial]:
    """Return each theta as a cell, by role."""
    factors = {}
    for role, text in theta.items():
        if role not in list(Role):
            raise ConfigError(f"theta.{role}: must be theta of one of {', '.join(Role)}")
        try:
            factors[Role(role)] = Monomial.parse(text)
        except ValueError as error:
            raise ConfigError(f"theta.{role}: {error}") from error
        if factors[Role(role)].coefficient == 0:
            raise ConfigError(f"theta.{role}={text}: must not be 0")
    return factors
