"""The roles of the matrices that an optimizer treats otherwise than all other tensors."""

from collections.abc import Collection

from mupl.errors import ConfigError
from mupl.roles import Role


def check_roles(roles: Collection[str]) -> None:
    """Refuse what is no list of roles of matrices.

    Raises:
        ConfigError: naming the roles that there are.

    Example:
        >>> check_roles(["hidden"])
    """
    if isinstance(roles, str):
        raise ConfigError(f"optimizer.roles={roles}: must be a list, such as [{roles}]")
    if unknown := set(roles) - {Role.INPUT, Role.HIDDEN, Role.OUTPUT}:
        raise ConfigError(
            f"optimizer.roles={', '.join(sorted(unknown))}: must be of input, hidden, output"
        )
