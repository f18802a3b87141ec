"""The abc-symmetry: what may be changed in a parametrization without changing any training trajectory."""

from collections.abc import Mapping
from dataclasses import replace

from mupl.parametrization.cells import Monomial
from mupl.parametrization.rules import Parametrization, Rule
from mupl.roles import Role

# How lr and eps answer to mult *= theta, init /= theta: lr /= theta^p, eps *= theta^q.
_POWERS = {"sgd": (2, 0), "adam": (1, 1), "orthogonal": (1, 0)}


def shift_rule(rule: Rule, theta: Monomial | str | float, update_kind: str) -> Rule:
    """The equivalent rule with `mult *= theta, init /= theta`.

    Under SGD `lr /= theta^2`; under updates that are invariant to the scale of the gradient `lr /= theta`, and where
    these have an epsilon (`adam`) `eps *= theta`. Weight decay is multiplied by what lr is divided by; where it follows
    from lr it does so by itself. (Tensor Programs V, Lemma J.1.)

    Raises:
        KeyError: on an update kind whose symmetry is not known.
    """
    theta = Monomial.parse(theta)
    lr_power, eps_power = _POWERS[update_kind]
    return replace(
        rule,
        mult=rule.mult * theta,
        init=rule.init / theta,
        lr=rule.lr / theta**lr_power,
        eps=rule.eps * theta**eps_power,
        wd=None if rule.wd is None else rule.wd * theta**lr_power,
    )


def shift(
    parametrization: Parametrization,
    theta: Mapping[Role, Monomial | str | float],
    update_kinds: tuple[str, ...],
) -> Parametrization:
    """The parametrization moved by one theta for each role (1 where none is given).

    `shift(get_parametrization("mup"), {Role.OUTPUT: "m_in"}, ("sgd", "adam"))` is Table 3.

    Args:
        update_kinds: the update kinds that the result has rules for.
    """
    rules = {
        update_kind: {
            role: shift_rule(
                parametrization.rule(update_kind, role), theta.get(role, 1.0), update_kind
            )
            for role in Role
        }
        for update_kind in update_kinds
    }
    return replace(parametrization, name=f"{parametrization.name}*", rules=rules)
