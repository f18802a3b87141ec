"""Whether a saved state fits the stack that is to go on from it."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mupl.names import flat


def tensors_by_member(state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a stack's state by name, each with the members first."""
    entries = flat(state)
    entries.pop("k", None)
    if isinstance(entries.get("losses"), Tensor):
        entries["losses"] = entries["losses"].T  # they are (max_steps, S)
    return entries


def part_of(state: Mapping[str, Any], members: Sequence[int]) -> dict[str, Any]:
    """Copy the part of a stack's state that belongs to some members."""
    part: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, Mapping):
            part[key] = part_of(value, members)
        elif isinstance(value, Tensor):
            part[key] = value[:, members] if key == "losses" else value[members]
        else:
            part[key] = value
    return part


def check_fits(
    mine: Mapping[str, Any],
    state: Mapping[str, Any],
    members: Sequence[int] | None,
    max_steps: int,
) -> None:
    """Check that a stack whose own state is `mine` can go on from `state`.

    Args:
        members: which members of `state` the stack has; None: all.

    Raises:
        ValueError: naming what does not fit, and what would.
    """
    k = state.get("k")
    if type(k) is not int or not 0 <= k <= max_steps:
        raise ValueError(f"state: k={k!r}: must be a whole number from 0 to {max_steps}")
    own = tensors_by_member(mine)
    saved = tensors_by_member(state)
    if own.keys() != saved.keys():
        missing = ", ".join(sorted(own.keys() - saved.keys())) or "nothing"
        unknown = ", ".join(sorted(saved.keys() - own.keys())) or "nothing"
        raise ValueError(f"state: lacks {missing}, and has {unknown} that the stack does not know")
    count = len(own["losses"])
    if members is not None:
        if len(members) != count:
            raise ValueError(f"members: {len(members)} of them: must be {count}, as in the stack")
        count = len(saved["losses"])
        if not all(0 <= member < count for member in members):
            raise ValueError(f"members={list(members)}: must be from 0 to {count - 1}")
    for name, tensor in own.items():
        _check_tensor(name, saved[name], (count, *tensor.shape[1:]), tensor)


def _check_tensor(name: str, saved: Any, shape: tuple[int, ...], like: Tensor) -> None:
    if not isinstance(saved, Tensor):
        raise ValueError(f"state: {name} is {type(saved).__name__}: must be a tensor")
    found = tuple(saved.shape)
    if found != shape or saved.dtype != like.dtype:
        raise ValueError(
            f"state: {name} is {found} {saved.dtype}: must be {shape} {like.dtype}, members first"
        )
