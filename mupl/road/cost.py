"""What a training costs: floating point operations, by the shapes of its tensors."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig
from torch import nn

from mupl.initializers import on_meta
from mupl.nn.multipliers import TiedReadout
from mupl.road.configs import resolved, with_values
from mupl.roles import Info
from mupl.training.config import build_setup, load_data
from mupl.training.setup import Setup
from mupl.training.threads import step_flops


class Cost(NamedTuple):
    """What one run of a config costs.

    Args:
        flops: of the whole run, 6 N D: N entries of matrices are multiplied once forward and twice
            backward for each of D examples or tokens. Tables of embeddings are looked up, so they
            do not count, and neither do the products of queries with keys. Of a mixture of experts
            all count.
        parameters: of the model, all of them.
    """

    flops: float
    parameters: int


def cost(config: DictConfig) -> Cost:
    """Return what a run of a config costs, without weights and without training.

    Raises:
        ConfigError: if its model cannot be built.
    """
    config = resolved(with_values(config, {"trainer.accelerator": "auto"}))
    splits = load_data(config)
    setup = on_meta_setup(config, splits.model_args)
    multiplied = without_tables(setup)
    per_step = step_flops(multiplied, splits, config.batch_size)
    parameters = sum(p.numel() for p in setup.model.parameters())
    return Cost(per_step * config.max_steps, parameters)


def on_meta_setup(config: DictConfig, offered: Mapping[str, Any]) -> Setup:
    """Build the setup of a config without memory for its weights."""
    with on_meta():
        return build_setup(config, offered)


def without_tables(setup: Setup) -> dict[str, Info]:
    """Leave out the tables of embeddings that are looked up only."""
    uses: dict[int, int] = {}
    tables = {}
    for path, module in setup.model.named_modules():
        for leaf, w in module._parameters.items():
            uses[id(w)] = uses.get(id(w), 0) + 1
            if isinstance(module, nn.Embedding):
                tables[f"{path}.{leaf}"] = id(w)
    is_tied = any(isinstance(module, TiedReadout) for module in setup.model.modules())
    others = dict(setup.infos)
    for name, w in tables.items():
        if uses[w] == 1 and not is_tied:
            others.pop(name, None)
    return others
