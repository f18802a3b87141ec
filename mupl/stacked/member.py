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
from mupl.identity import IGNORED_KEYS, write_result
from mupl.initializers import on_meta
from mupl.stacked.plan import member_bytes
from mupl.stacked.rules import NotStackable, has_default_options, stackable
from mupl.stacked.model import check_stackable
from mupl.training.check import check
from mupl.training.config import TUNED_KEYS, build, varied
from mupl.training.setup import Setup

_SETUPS: dict[
    str, Setup
] = {}  # by what jobs that differ in `TUNED_KEYS` only have in common; they hold no weights


@dataclass
class Job:
    """A run of a sweep.

    Args:
        id: see `mupl.identity.job_id`.
        config: resolved, without Hydra's part.
        identity: the columns of its row of results that tell it from the others.
        folder: where its files go.
    """

    id: str
    config: DictConfig
    identity: dict[str, Any]
    folder: Path

    @cached_property
    def setup(self) -> Setup:
        """Its setup, without weights.

        Raises:
            ConfigError: on bad input.
            NotStackable: if its data, its model or its optimizer cannot be stacked.
        """
        check(self.config)
        told: Any = OmegaConf.to_container(self.config)
        key = json.dumps(
            {k: v for k, v in told.items() if k not in (*TUNED_KEYS, *IGNORED_KEYS)}, default=str
        )
        if key not in _SETUPS:
            _SETUPS[key] = self._describe()
        setup = _SETUPS[key].varied(**varied(self.config))
        # Bad options would stop the whole stack. torch finds them; but at the first call it imports its compiler, for
        # which half a sweep of small models can be trained: not where nothing can be wrong
        numbers = [
            n for scale in setup.scales.values() for n in (scale.lr, scale.eps, scale.weight_decay)
        ]
        if min(numbers) < 0 or not has_default_options(setup.optimizer_class):
            setup.build_optimizer()
        return setup

    def _describe(self) -> Setup:
        splits = instantiate(self.config.data)
        if not isinstance(splits, Splits | Tokens):
            raise NotStackable(
                f"data: {self.config.data['_target_']} returns neither Splits nor Tokens"
            )
        with on_meta():
            setup = build(Setup, self.config, splits.model_args)
        check_stackable(setup)
        stackable(setup.optimizer_class)
        return setup

    def nbytes(self) -> int:
        """About the memory that it takes in a stack."""
        splits = instantiate(self.config.data)  # one class an image, or one token after each
        positions = self.config.batch_size * (splits.context if isinstance(splits, Tokens) else 1)
        shapes = [info.shape for info in self.setup.infos.values()]
        optimizer, flags = stackable(self.setup.optimizer_class)
        rules = optimizer.rules.values()
        state = sum(
            max(sum(map(math.prod, rule.states(s, flags).values())) for rule in rules)
            for s in shapes
        )
        recorded = bool(self.config.callbacks)  # the weights before a step are kept
        states = state / sum(map(math.prod, shapes)) + recorded
        return member_bytes(
            shapes,
            states,
            positions,
            itemsize=8 if self.config.trainer.precision == "64-true" else 4,
        )

    def write(self, outcome: dict[str, Any]) -> None:
        """Its row of results."""
        write_result(self.folder, self.identity | outcome)

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value for name, value in vars(self).items() if name != "setup"
        }  # which is described anew
