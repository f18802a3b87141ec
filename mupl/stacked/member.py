"""A job of a sweep, as a member of a stack."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from mupl.data.splits import Splits
from mupl.data.text import Tokens
from mupl.identity import RESULT_FILE, write_result
from mupl.initializers import on_meta
from mupl.stacked.model import check_stackable
from mupl.stacked.plan import member_bytes
from mupl.stacked.rules import NotStackable, has_default_options, stackable
from mupl.training.config import TUNED_KEYS, build_setup, check, tuned
from mupl.training.setup import Setup

# By the config without TUNED_KEYS: jobs that differ in nothing else share a setup, which holds no
# weights.
_SETUPS: dict[str, Setup] = {}


@dataclass
class Job:
    """A run of a sweep.

    Args:
        number: Hydra's.
        id: see `mupl.identity.job_id`.
        row: all but the outcome of its row of results; see `mupl.identity.job_row`.
        folder: where its files go.
        compose: returns its config, resolved and without Hydra's part. A sweep may have thousands
            of jobs that are done already: those need none.
    """

    number: int
    id: str
    row: dict[str, Any]
    folder: Path
    compose: Callable[[], DictConfig]

    @cached_property
    def config(self) -> DictConfig:
        """Its config, resolved and without Hydra's part."""
        return self.compose()

    @cached_property
    def setup(self) -> Setup:
        """Its setup, without weights.

        Raises:
            ConfigError: on bad input.
            NotStackable: if its data, its model or its optimizer cannot be stacked.
        """
        check(self.config)
        untuned = {k: v for k, v in self.row["config"].items() if k not in TUNED_KEYS}
        text = json.dumps(untuned, default=str)
        if text not in _SETUPS:
            _SETUPS[text] = self._describe()
        setup = _SETUPS[text].with_tuned(**tuned(self.config))
        # A bad number or option would stop the whole stack, and torch finds it here. But the first
        # optimizer that is built makes torch import its compiler, in which time half a sweep of
        # small models is trained
        suspicious = not has_default_options(setup.optimizer_class)
        for scale in setup.scales.values():
            suspicious |= min(scale.lr, scale.eps, scale.weight_decay) < 0
        if suspicious:
            setup.optimizer()
        return setup

    def _describe(self) -> Setup:
        splits = instantiate(self.config.data)
        if not isinstance(splits, Splits | Tokens):
            raise NotStackable(
                f"data: {self.config.data['_target_']} returns neither Splits nor Tokens"
            )
        with on_meta():
            setup = build_setup(self.config, splits.model_args)
        check_stackable(setup)
        stackable(setup.optimizer_class)
        return setup

    def nbytes(self) -> int:
        """Estimate the memory in bytes that it takes in a stack."""
        splits = instantiate(self.config.data)
        positions = (
            self.config.batch_size
        )  # at which there is an output: one an image, or one a token
        if isinstance(splits, Tokens):
            positions *= splits.context
        shapes = [info.shape for info in self.setup.infos.values()]
        optimizer, options = stackable(self.setup.optimizer_class)
        state = 0
        for shape in shapes:
            entries = []
            for rule in optimizer.rules.values():
                entries.append(sum(math.prod(x) for x in rule.states(shape, options).values()))
            state += max(entries)
        states = state / sum(math.prod(shape) for shape in shapes)
        if self.config.callbacks:
            states += 1  # the recorder keeps the weights before a step
        itemsize = 8 if self.config.trainer.precision == "64-true" else 4
        return member_bytes(shapes, states, positions, itemsize)

    def is_done(self) -> bool:
        """Whether it has a result."""
        return (self.folder / RESULT_FILE).exists()

    def write(self, outcome: dict[str, Any]) -> None:
        """Write its row of results."""
        write_result(self.folder, self.row | outcome)

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to another process; the setup is described anew there."""
        sent = vars(self) | {"config": self.config}
        return {name: value for name, value in sent.items() if name not in ("compose", "setup")}
