"""Successive halving: at each rung the better settings of a sweep go on, and the rest is dropped.

Jamieson & Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization".
The losses at a rung are compared at one step of training. Under a schedule that decays they lie
above those at the end, for all settings alike.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Self

# Hyperparameters whose values compete where `within` is not said; jobs that differ in anything else
# are not compared
COMPETING = (
    "lr",
    "eps",
    "weight_decay",
    "tune",
    "model.init_std",
    "model.embedding_std",
    "model.input_mult",
    "model.attention_mult",
    "model.residual_mult",
    "model.output_mult",
    "optimizer.betas",
    "optimizer.momentum",
)
MOST = 0.5  # that may go on: so a stack has few sizes, for each of which it may be compiled


@dataclass(frozen=True)
class Halving:
    """When settings are compared, and how many of them go on.

    Args:
        rungs: fractions of max_steps, increasing.
        keep: the share that goes on at each rung, rounded up.
        within: dotted keys of the config; jobs are compared if they agree in these. None: if they
            agree in all but `COMPETING` and the seed.
        metric: val_loss, or train_loss (the mean over the last tenth of the steps made).

    Example:
        >>> Halving((0.1, 0.3), (0.5, 0.5), None, "val_loss").steps(100)
        [10, 30]
    """

    rungs: tuple[float, ...]
    keep: tuple[float, ...]
    within: tuple[str, ...] | None
    metric: str

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Read the keys `halving` and `metric` of a config; without rungs nothing is dropped."""
        said = config["halving"]
        rungs = tuple(map(float, said["rungs"]))
        keep = said["keep"]
        if isinstance(keep, Real):
            keep = [keep] * len(rungs)
        shares = tuple(map(float, keep))
        within = said["within"]
        if within is not None:
            within = tuple(within)
        return cls(rungs, shares, within, str(config["metric"]))

    def steps(self, max_steps: int) -> list[int]:
        """The number of updates after which each rung comes: from 1 to max_steps - 1."""
        return [min(max(1, round(rung * max_steps)), max_steps - 1) for rung in self.rungs]

    def names(self, max_steps: int) -> list[str]:
        """Say what is compared at each rung, and when.

        Example:
            >>> Halving((0.1, 0.3), (0.5, 0.5), None, "val_loss").names(100)
            ['val_loss at step 10', 'val_loss at step 30']
        """
        return [f"{self.metric} at step {step}" for step in self.steps(max_steps)]

    def plain(self) -> dict[str, Any]:
        """What a dropped job's result records, to be compared with the same of another command."""
        plain: dict[str, Any] = json.loads(json.dumps(vars(self)))
        return plain

    def losers(
        self, rung: int, configs: Sequence[Mapping[str, Any]], losses: Sequence[float]
    ) -> list[int]:
        """Return the indices of the jobs that do not go on.

        Settings of one group that have the same seeds are compared by their mean loss over seeds.
        Of n settings ceil(keep * n) go on, but none whose loss is not finite.

        Args:
            rung: number of the rung, from 0.
            configs: what each job trains.
            losses: of each job at the rung; NaN or infinite where it diverged.

        Example:
            >>> halving = Halving((0.1,), (0.5,), None, "val_loss")
            >>> halving.losers(0, [{"lr": 1, "seed": 0}, {"lr": 2, "seed": 0}], [3.0, 2.5])
            [0]
        """
        settings: dict[str, list[int]] = {}
        for index, config in enumerate(configs):
            setting = _text(_without(config, ["seed"]))
            settings.setdefault(setting, []).append(index)
        groups: dict[str, list[tuple[float, list[int]]]] = {}
        for members in settings.values():
            mean = sum(losses[i] for i in members) / len(members)
            group = self._group([configs[i] for i in members])
            groups.setdefault(group, []).append((mean, members))
        lost: list[int] = []
        for compared in groups.values():
            kept = math.ceil(self.keep[rung] * len(compared))
            ranked = sorted(compared, key=_rank)
            for place, (mean, members) in enumerate(ranked):
                if place >= kept or not math.isfinite(mean):
                    lost += members
        return sorted(lost)

    def _group(self, configs: Sequence[Mapping[str, Any]]) -> str:
        """What a setting must share with another to be compared; the configs differ in seed."""
        first = configs[0]
        seeds = sorted(str(config.get("seed")) for config in configs)
        if self.within is None:
            return _text([_without(first, ["seed", *COMPETING]), seeds])
        return _text([[_value(first, key) for key in self.within], seeds])


def _rank(setting: tuple[float, list[int]]) -> float:
    mean, _ = setting
    return mean if math.isfinite(mean) else math.inf


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _value(config: Any, key: str) -> Any:
    """Return the value at a dotted key, or None."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


def _without(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return a copy without the values at dotted keys."""
    kept = dict(config)
    for key in keys:
        name, _, rest = key.partition(".")
        if not rest:
            kept.pop(name, None)
        elif isinstance(kept.get(name), Mapping):
            kept[name] = _without(kept[name], [rest])
    return kept


def halving_problems(key: str, value: Any) -> Iterator[str]:
    """Say what is wrong with `{rungs, keep, within}`."""
    if not isinstance(value, Mapping) or set(value) != {"rungs", "keep", "within"}:
        yield f"{key}={value}: must have rungs, keep and within, as in {key}.rungs=[0.1,0.3]"
        return
    rungs = value["rungs"]
    keep = value["keep"]
    within = value["within"]
    good = isinstance(rungs, list) and all(_is_share(rung, 1) and rung < 1 for rung in rungs)
    if not good or sorted(set(rungs)) != rungs:
        yield (
            f"{key}.rungs={rungs}: must be increasing fractions of max_steps between 0 and 1, such "
            "as [0.1, 0.3]"
        )
        return
    shares = keep if isinstance(keep, list) else [keep] * len(rungs)
    if len(shares) != len(rungs) or not all(_is_share(share, MOST) for share in shares):
        yield (
            f"{key}.keep={keep}: must be above 0 and at most {MOST}, the share that goes on, or a "
            "list of one for each rung"
        )
    if within is not None and not _are_texts(within):
        yield f"{key}.within={within}: must be a list of keys, such as [width], or null"


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _is_share(value: Any, most: float) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) <= most
