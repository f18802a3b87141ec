"""What the target's run ends with: its loss and coordinates beside what the ladder predicted."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from mupl.files import write_atomically
from mupl.identity import RESULT_FILE, differing_settings, read_result, setting, value_text
from mupl.training.compose import compose, search_overrides
from mupl.training.processes import is_first_process

FILE = "certificate.json"  # in the run's folder
PROXIES = "proxies.csv"  # in the sweep's folder: the coordinates of the proxies' first steps
TABLE = "coordinates.csv"  # of the run
# What may be other than recommended: any seed will do, and the recorder only looks on
FREE = ("seed", "callbacks.coordinates")


class Certificate(Callback):
    """A Hydra callback that ends a run with `certificate.json` and a sentence.

    Args:
        metric: the loss that was predicted.
        loss: value, low and high of it; None if none was predicted.
        recommended: the recommended values of what was tuned, by key.
        regret: the loss that these may cost over the best ones; None if it is not known.
        scatter: of a loss over seeds, as a share of the loss; None if it is not known.
    """

    def __init__(
        self,
        metric: str,
        loss: Mapping[str, Any] | None,
        recommended: Mapping[str, Any],
        regret: float | None = None,
        scatter: float | None = None,
    ) -> None:
        self.metric = metric
        self.loss = loss
        self.recommended: Any = recommended
        if OmegaConf.is_config(recommended):
            self.recommended = OmegaConf.to_container(self.recommended)
        self.regret = regret
        self.scatter = scatter
        self._alone = False
        self._differing: dict[str, tuple[Any, Any]] = {}

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._alone = True
        # now, as the ladder's folder may have the recommendation of another target at the end
        self._differing = differing_settings(config, _as_it_stands(config), FREE)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        folder = Path(config.hydra.runtime.output_dir)
        row = read_result(folder / RESULT_FILE)
        if not self._alone or not is_first_process() or row is None:
            return
        if row["status"] not in ("completed", "diverged"):
            return
        certificate = self.of_run(folder, row, _sweep(config))
        write_atomically(folder / FILE, json.dumps(certificate, indent=1, allow_nan=False))
        for sentence in certificate["sentences"]:
            print(f"certificate: {sentence}")
        print(f"certificate: {folder / FILE}", flush=True)

    def of_run(self, folder: Path, row: Mapping[str, Any], sweep: Path | None) -> dict[str, Any]:
        """Return the certificate of a run as plain data.

        Args:
            folder: of the run.
            row: its result.
            sweep: the ladder's folder; None if it is not known.
        """
        from mupl.analysis.bootstrap import Interval
        from mupl.analysis.certificate import coordinates_sentence, loss_sentence, plain

        predicted = None
        if self.loss is not None:
            known = {key: math.nan if v is None else v for key, v in self.loss.items()}
            predicted = Interval(**known)
        measured = float(row[self.metric])
        said = [loss_sentence(predicted, measured, self.metric)]
        if row["status"] == "diverged":
            said = [f"the run diverged at step {row['steps']}"]
        changed = self._changed(row)
        if changed:
            said.append(f"other values than the recommended ones: {_listed(changed)}")
        compared = _compared(folder, sweep, float(row["width"]))
        said.append(coordinates_sentence(compared))
        values = {key: setting(key, row["config"], row["choices"]) for key in self.recommended}
        is_known = predicted is not None and not math.isnan(predicted.low)
        return {
            "metric": self.metric,
            "predicted": None if self.loss is None else dict(self.loss),
            "measured": measured if math.isfinite(measured) else None,
            "inside": measured in predicted if predicted is not None and is_known else None,
            "recommended": dict(self.recommended),
            "values": values,
            "changed": changed,
            "regret": self.regret,
            "scatter": self.scatter,
            "coordinates": plain(compared),
            "sentences": said,
            "ladder": str(sweep) if sweep else None,
        }

    def _changed(self, row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the settings that are not the recommended ones: key -> value, recommended."""
        pairs = {}
        for key, recommended in self.recommended.items():
            value = setting(key, row["config"], row["choices"])
            if str(value) != str(recommended) and value != recommended:
                pairs[key] = (value, recommended)
        pairs = {**self._differing, **pairs}
        return {key: {"value": now, "recommended": then} for key, (now, then) in pairs.items()}


def _listed(changed: Mapping[str, Mapping[str, Any]]) -> str:
    """Name settings with their values and the recommended ones."""
    parts = []
    for key, one in changed.items():
        value = value_text(one["value"])
        recommended = value_text(one["recommended"])
        parts.append(f"{key}={value} (recommended: {recommended})")
    return ", ".join(parts)


def _as_it_stands(config: DictConfig) -> DictConfig:
    """Compose the config that a command named, without the values that it said behind it."""
    return compose(search_overrides(config), str(config.hydra.job.config_name))


def _sweep(config: DictConfig) -> Path | None:
    """Return the folder that the recommendation was read from."""
    for source in config.hydra.runtime.config_sources:
        if source.schema == "file" and Path(source.path, PROXIES).exists():
            return Path(source.path)
    return None


def _compared(folder: Path, sweep: Path | None, width: float) -> Any:
    """Compare the coordinates of a run with its proxies'; an empty table if they are not there."""
    import pandas as pd

    from mupl.analysis.certificate import compare, statistics

    if sweep is None or not (folder / TABLE).exists():
        return pd.DataFrame()
    proxies = pd.read_csv(sweep / PROXIES)
    run = pd.read_csv(folder / TABLE)
    return compare(statistics(proxies), statistics(run), width)
