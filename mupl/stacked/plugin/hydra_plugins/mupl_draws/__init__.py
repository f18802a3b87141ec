"""`hydra/sweeper=draws`; the work is in `mupl.tuning.draws`.

It is here because Hydra takes sweepers from this namespace only.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override

from mupl.hydra_internals import BasicSweeper
from mupl.training.clear_errors import clear_errors
from mupl.tuning.draws import Range, draw


class DrawsSweeper(BasicSweeper):
    """Draws the keys that have an interval or the tag `draw`; goes over the values of the others.

    Every setting that is drawn is run at all values of the others, such as widths and seeds.
    """

    def __init__(
        self,
        max_batch_size: int | None,
        params: Any,
        settings: int,
        seed: int,
        sampler: str,
    ) -> None:
        super().__init__(max_batch_size, params)
        self._settings = settings
        self._seed = seed
        self._sampler = sampler

    def split_arguments(  # type: ignore[override]
        self, overrides: Sequence[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Return the overrides of the jobs, in batches."""
        by_key = {override.get_key_element(): override for override in overrides}
        drawn = {}
        others = []
        for key, override in by_key.items():
            values = _drawn(override)
            if values is None:
                others.append(override)
            else:
                drawn[key] = values
        with clear_errors():
            settings = draw(drawn, self._settings, self._seed, self._sampler)
        [grid] = BasicSweeper.split_arguments(others, None)
        jobs = []
        for fixed, setting in itertools.product(grid, settings):
            jobs.append([*fixed, *(f"{key}={value}" for key, value in setting.items())])
        if max_batch_size is None:
            return [jobs]
        return [list(chunk) for chunk in self.split_overrides_to_chunks(jobs, max_batch_size)]


def _drawn(override: Override) -> Range | list[str] | None:
    """Return what a key is drawn from, or None if it is not drawn."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return Range(float(value.start or 0), float(value.end or 0), log="log" in value.tags)
    if isinstance(value, ChoiceSweep) and "draw" in value.tags:
        return [str(text) for text in override.sweep_string_iterator()]
    return None


@dataclass
class DrawsSweeperConf:
    """What Hydra makes the sweeper from.

    Args:
        params: keys and their values, as in an experiment.
        settings: how many are drawn.
        seed: of the draws.
        sampler: sobol, evenly spread, or random.
    """

    _target_: str = "hydra_plugins.mupl_draws.DrawsSweeper"
    max_batch_size: int | None = None
    params: dict[str, Any] | None = None
    settings: int = 64
    seed: int = 0
    sampler: str = "sobol"


ConfigStore.instance().store(
    group="hydra/sweeper", name="draws", node=DrawsSweeperConf, provider="mupl"
)
