"""What a model multiplies, and by how much: the numbers for which other programs have fields."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from mupl.errors import ConfigError, enumerated
from mupl.names import block_pattern, some_of
from mupl.nn.unit_scaling import scales_gradients
from mupl.roles import MultiplierRole, ParamInfo, Role
from mupl.training.setup import Setup


@dataclass(frozen=True)
class Numbers:
    """What a model multiplies its embeddings, logits and branches by.

    Args:
        embedding: what is looked up is multiplied by it.
        attention: products of queries with keys are multiplied by it; None if there is none.
        residual: what is added to the stream is multiplied by it.
        output: logits are multiplied by it.
        width, depth: of the stream, and number of blocks; None if the model does not say.
        d_head: size of a head; None if there is none.
        others: tensors with a multiplier that is none of these, by name.
    """

    embedding: float
    attention: float | None
    residual: float
    output: float
    width: int | None
    depth: int | None
    d_head: int | None
    others: dict[str, float]

    @classmethod
    def of(cls, setup: Setup) -> "Numbers":
        """Read them from a setup.

        Raises:
            ConfigError: if blocks differ in a number that has one field for all, or operations are
                unit-scaled.

        Example:
            >>> from mupl.models import GPT
            >>> def build(width):
            ...     return GPT(vocabulary=11, context=8, width=width, depth=1, d_head=8)
            >>> found = Numbers.of(Setup(build, 32, base_width=8, lr=1e-3))
            >>> found.output, round(found.attention**-2)
            (0.25, 8)
        """
        model: Any = setup.model
        if scales_gradients(model):
            raise ConfigError(
                "export: unit-scaled operations have forward and backward numbers that no other "
                "form holds; say model.unit_scaling=false"
            )
        tables = {f"{path}.weight" for path, m in model.named_modules() if _is_table(m)}
        by_place: dict[str, dict[str, float]] = {"embedding": {}, "output": {}, "others": {}}
        for name, scale in setup.scales.items():
            info = setup.infos[name]
            if not isinstance(info, ParamInfo):
                place = str(info.row)
            elif name in tables:
                place = "embedding"
            else:
                is_readout = info.role == Role.OUTPUT and block_pattern(name) == name
                place = "output" if is_readout else "others"
            by_place.setdefault(place, {})[name] = scale.mult
        config = getattr(model, "config", None)
        residual = _one(by_place.get(MultiplierRole.RESIDUAL, {}), "residual branches")
        output = {**by_place["output"], **by_place.get(MultiplierRole.TIED, {})}
        attention = by_place.get(MultiplierRole.ATTENTION, {})
        return cls(
            embedding=_own(model, "input_mult", "embedding_multiplier", "scale_emb")
            * _one(by_place["embedding"], "embeddings"),
            attention=_one(attention, "attention") if attention else None,
            residual=residual * _own_residual(config),
            output=_one(output, "readouts") * _own_output(model, config),
            width=_field(config, "width", "hidden_size", "n_embd"),
            depth=_field(config, "depth", "num_hidden_layers", "n_layer"),
            d_head=_d_head(setup),
            others={name: mult for name, mult in by_place["others"].items() if mult != 1},
        )


def _is_table(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding)


def _one(values: dict[str, float], what: str) -> float:
    """Return the number that all have; 1 if there are none."""
    found = list(values.values()) or [1.0]
    if not all(math.isclose(value, found[0], rel_tol=1e-9) for value in found):
        names = some_of(list(values))
        raise ConfigError(f"export: {what} have several multipliers ({names}), others have one")
    return found[0]


def _field(config: Any, *names: str) -> Any:
    """Return the first field that a config has, or None."""
    for name in names:
        if getattr(config, name, None) is not None:
            return getattr(config, name)
    return None


def _own(model: Any, attribute: str, *fields: str) -> float:
    """Return what a model multiplies by: an attribute of ours, a field of its config, or 1."""
    found = getattr(model, attribute, None)
    if found is None:
        found = _field(getattr(model, "config", None), *fields)
    return 1.0 if found is None else float(found)


def _own_residual(config: Any) -> float:
    """Return what a model of transformers multiplies its branches by: Granite's or MiniCPM's."""
    if hasattr(config, "residual_multiplier"):
        return float(config.residual_multiplier)
    if hasattr(config, "scale_depth"):
        return float(config.scale_depth) / math.sqrt(config.num_hidden_layers)
    return 1.0


def _own_output(model: Any, config: Any) -> float:
    scaling = getattr(config, "logits_scaling", None)
    return _own(model, "output_mult") / float(1.0 if scaling is None else scaling)


def _d_head(setup: Setup) -> int | None:
    for info in setup.infos.values():
        if info.row == MultiplierRole.ATTENTION:
            return int(info.symbols["fan_in"])
    return None


def inexpressible(parts: Iterable[str]) -> list[str]:
    """Say in one sentence what a form cannot express; nothing if there is nothing.

    >>> inexpressible(["a learning rate for each tensor"])
    ['not expressed: a learning rate for each tensor']
    """
    listed = list(parts)
    return [f"not expressed: {enumerated(listed)}"] if listed else []
