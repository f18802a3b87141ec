"""A job of a sweep, as a member of a stack."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mupl.data.splits import Splits
from mupl.data.text import Tokens
from mupl.initializers import on_meta
from mupl.jobs import UNTOLD, write_result
from mupl.optim.stacked_rules import NotStackable, default_options, stackable
from mupl.sweep.plan import member_bytes
from mupl.training.build import VARIED, build, varied
from mupl.training.check import check
from mupl.training.recipe import Recipe
from mupl.training.stack import check_stackable

_RECIPES: dict[str, Recipe] = {}  # by what jobs that differ in `VARIED` only have in common; they hold no weights


@dataclass
class Job:
    """A run of a sweep.

    Args:
        id: see `mupl.jobs.job_id`.
        config: resolved, without Hydra's part.
        identity: the columns of its row of results that tell it from the others.
        folder: where its files go.
    """

    id: str
    config: DictConfig
    identity: dict[str, Any]
    folder: Path

    @cached_property
    def recipe(self) -> Recipe:
        """Its recipe, without weights.

        Raises:
            ConfigError: on bad input.
            NotStackable: if its data, its model or its optimizer cannot be stacked.
        """
        check(self.config)
        told: Any = OmegaConf.to_container(self.config)
        key = json.dumps({k: v for k, v in told.items() if k not in (*VARIED, *UNTOLD)}, default=str)
        if key not in _RECIPES:
            _RECIPES[key] = self._describe()
        recipe = _RECIPES[key].varied(**varied(self.config))
        # Bad options would stop the whole stack. torch finds them; but at the first call it imports its compiler, for
        # which half a sweep of small models can be trained: not where nothing can be wrong
        numbers = [n for scale in recipe.scales.values() for n in (scale.lr, scale.eps, scale.weight_decay)]
        if min(numbers) < 0 or not default_options(recipe.optimizer_class):
            recipe.build_optimizer()
        return recipe

    def _describe(self) -> Recipe:
        splits = instantiate(self.config.data)
        if not isinstance(splits, Splits | Tokens):
            raise NotStackable(f"data: {self.config.data['_target_']} returns neither Splits nor Tokens")
        with on_meta():
            recipe = build(Recipe, self.config, splits.model_args)
        check_stackable(recipe)
        stackable(recipe.optimizer_class)
        return recipe

    def nbytes(self) -> int:
        """About the memory that it takes in a stack."""
        splits = instantiate(self.config.data)  # one class an image, or one token after each
        positions = self.config.batch_size * (splits.context if isinstance(splits, Tokens) else 1)
        shapes = [info.shape for info in self.recipe.infos.values()]
        optimizer, flags = stackable(self.recipe.optimizer_class)
        rules = optimizer.rules.values()
        state = sum(max(sum(map(math.prod, rule.states(s, flags).values())) for rule in rules) for s in shapes)
        recorded = bool(self.config.callbacks)  # the weights before a step are kept
        states = state / sum(map(math.prod, shapes)) + recorded
        return member_bytes(shapes, states, positions, itemsize=8 if self.config.trainer.precision == "64-true" else 4)

    def write(self, outcome: dict[str, Any]) -> None:
        """Its row of results."""
        write_result(self.folder, self.identity | outcome)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "recipe"}  # which is described anew
