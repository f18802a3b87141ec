"""The config of the target: all keys that are not defaults, and where their values come from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from mupl.analysis.bootstrap import Interval
from mupl.analysis.prediction import Prediction, Recommended
from mupl.files import write_atomically
from mupl.road.configs import sources, with_values
from mupl.training.compose import compose

FILE = "recommendation.yaml"  # in the sweep's folder
NOT_OF_RUNS = ("halving", "target", "check", "rerun", "name", "expect", "figure", "callbacks")
NOT_CHOSEN = ("experiment", "size", "setting", "local", "callbacks")  # groups
STEPS = (0, 1, 2, 4, 8)  # that are recorded, of proxies and target alike


@dataclass(frozen=True)
class Source:
    """Where a recommendation comes from.

    Args:
        sweep: the folder.
        plan: the config of the sweep's last command.
        config: of the best proxy at the largest size, not resolved.
        choices: its config groups.
    """

    sweep: Path
    plan: DictConfig
    config: DictConfig
    choices: Mapping[str, Any]


def recorded(max_steps: int) -> dict[str, Any]:
    """Return what is recorded of a run's first steps, for `callbacks=coordinates`."""
    steps = [step for step in STEPS if step < max_steps]
    return {"kinds": ["output", "param", "update"], "statistics": ["rms"], "steps": steps}


def recommended_values(found: Prediction, choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recommended value of each key that is no config group, by dotted key."""
    values = {one.key: one.plain for one in found.recommended}
    return {key: value for key, value in values.items() if key not in choices}


def write_recommendation(
    source: Source, found: Prediction, metric: str, sizes: Mapping[str, Any]
) -> Path:
    """Write the config of the target, and return its path.

    Args:
        source: the sweep and its best proxy.
        found: what the ladder says.
        metric: the loss that is predicted.
        sizes: of the target: width, depth, batch_size, max_steps.
    """
    main = str(source.plan.hydra.job.config_name)
    choices = {}
    for group, choice in source.choices.items():
        if group not in NOT_CHOSEN and not group.startswith("hydra"):
            choices[group] = choice
    searched = sources(source.plan)
    overrides = [f"{group}={_word(choice)}" for group, choice in choices.items()]
    defaults = compose(overrides, main)
    stock = compose([], main).hydra.runtime.choices
    values = {**sizes, **recommended_values(found, source.choices), "seed": 0}
    config: Any = OmegaConf.to_container(with_values(source.config, values), resolve=False)
    stock_values: Any = OmegaConf.to_container(defaults, resolve=False)
    own = differing(config, stock_values, (*NOT_OF_RUNS, "hydra"), ("base_width", *values))
    own["callbacks"] = {"coordinates": recorded(sizes["max_steps"])}
    named = [f"  - {main}", "  - _self_", "  - override /callbacks: coordinates"]
    for group, choice in choices.items():
        if choice != stock.get(group):
            named.append(f"  - override /{group}: {_word(choice)}")
    lines = [*_head(source, found, metric), "defaults:", *named, ""]
    lines += _body(own, _comments(found, sizes, source))
    hydra: dict[str, Any] = {"callbacks": {"certificate": _certificate(found, metric)}}
    if searched:
        hydra["searchpath"] = searched
    lines += [
        "",
        "# Ends the run with certificate.json: what was predicted beside what is measured",
    ]
    lines.append(yaml.safe_dump({"hydra": hydra}, sort_keys=False))
    file = source.sweep / FILE
    write_atomically(file, "\n".join(lines))
    return file


def _word(choice: Any) -> str:
    return "null" if choice is None else str(choice)


def differing(
    config: Mapping[str, Any],
    stock: Mapping[str, Any],
    without: Sequence[str] = (),
    always: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the entries of a nested config that another does not have so.

    Args:
        config, stock: the two.
        without: keys that are left out.
        always: keys that are there also where they are the same.

    >>> differing({"lr": 1, "model": {"bias": True, "depth": 2}}, {"lr": 1, "model": {"depth": 3}})
    {'model': {'bias': True, 'depth': 2}}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key in without:
            continue
        other = stock.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            inner = differing(value, other)
            if inner:
                found[key] = inner
        elif key not in stock or value != other or key in always:
            found[key] = value
    return found


def _head(source: Source, found: Prediction, metric: str) -> list[str]:
    lines = [
        f"# The run of {found.size} {found.target:g} that the ladder in this folder recommends:",
        f"#   python train.py --config-dir {source.sweep} --config-name recommendation",
        f"# Predicted: {predicted_text(found, metric)}.",
    ]
    return [*lines, *(f"# Note: {text}" for text in found.warnings)]


def predicted_text(found: Prediction, metric: str) -> str:
    """Say the predicted loss of the target, or that there is none.

    >>> found = Prediction("width", 64, 1e9, None, [], Interval(2.0, 1.9, 2.1), None, 0.1, 3)
    >>> predicted_text(found, "val_loss")
    'val_loss 2 (95 % 1.9 to 2.1, of one run)'
    """
    if found.loss is None:
        return f"no {metric}"
    return f"{metric} {interval_text(found.loss, 'of one run')}"


def interval_text(interval: Interval, of: str = "") -> str:
    """Write a number with its interval.

    >>> interval_text(Interval(0.01, 0.008, 0.0125))
    '0.01 (95 % 0.008 to 0.0125)'
    """
    if interval.low != interval.low:
        return f"{interval.value:.4g} (no interval is known)"
    end = f", {of}" if of else ""
    return f"{interval.value:.4g} (95 % {interval.low:.4g} to {interval.high:.4g}{end})"


def _comments(found: Prediction, sizes: Mapping[str, Any], source: Source) -> dict[str, str]:
    """Say of each top-level key where its value comes from."""
    comments: dict[str, list[str]] = {}
    for one in found.recommended:
        top_key = one.key.partition(".")[0]
        comments.setdefault(top_key, []).append(source_text(one))
    said = source.plan.target
    for key in sizes:
        where = "target" if said.get(key) is not None else "the proxies' too"
        comments.setdefault(key, []).append(where)
    comments.setdefault("seed", []).append("any: the ladder's intervals are over seeds")
    return {key: "; ".join(texts) for key, texts in comments.items()}


def source_text(one: Recommended) -> str:
    """Say where a recommended value comes from.

    >>> source_text(Recommended("lr", Interval(0.01, 0.008, 0.012), None, {}, 0.1, "a line"))
    'lr 0.01 (95 % 0.008 to 0.012): a line'
    """
    value = one.value if isinstance(one.value, str) else interval_text(one.value)
    return f"{one.key} {value}: {one.source}"


def _body(own: Mapping[str, Any], comments: Mapping[str, str]) -> list[str]:
    lines = []
    for key, value in own.items():
        if key in comments:
            lines.append(f"# {comments[key]}")
        lines.append(yaml.safe_dump({key: value}, sort_keys=False).rstrip())
    return lines


def _certificate(found: Prediction, metric: str) -> dict[str, Any]:
    loss = None
    if found.loss is not None:
        loss = _rounded(asdict(found.loss))
    regret = sum(one.target_regret for one in found.recommended)
    return {
        "_target_": "mupl.road.certificate.Certificate",
        "metric": metric,
        "loss": loss,
        "recommended": {one.key: one.plain for one in found.recommended},
        **_rounded({"regret": regret, "scatter": found.scatter}),
    }


def _rounded(values: Mapping[str, float]) -> dict[str, float | None]:
    """Round to six digits; NaN, which YAML readers spell differently, becomes null."""
    return {k: None if v != v else float(f"{v:.6g}") for k, v in values.items()}
