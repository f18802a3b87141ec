"""What a multirun does beside its jobs: show progress, and gather the results when it ends."""

import json
import math
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.utils import get_method
from omegaconf import DictConfig

from mupl.errors import ConfigError
from mupl.sweep.results import RESULT_FILE


class SweepReport(Callback):
    """Hydra callback: a line for each finished job, and a report at the end. Single runs are left alone.

    Args:
        report: dotted name of the function `(sweep folder, metric) -> exit code` that makes the report; see
            `mupl.sweep.report`.
    """

    def __init__(self, report: str) -> None:
        self._report = report
        self._started: float | None = None  # None: not a multirun
        self._done = 0
        self._sweeps: dict[str, int] = {}
        self._total: int | None = None  # None: the sweeper decides as it goes

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._started = time.perf_counter()
        self._sweeps = swept_keys(config)
        if str(config.hydra.sweeper._target_).endswith(BasicSweeper.__name__):
            self._total = math.prod(self._sweeps.values())

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if self._started is None:
            return
        self._done += 1
        folder = Path(config.hydra.runtime.output_dir)
        row = json.loads((folder / RESULT_FILE).read_text())
        loss = config.metric if math.isfinite(row.get(config.metric, math.nan)) else "train_loss"
        outcome = f"{loss} {row[loss]:.4g}" if row["status"] == "completed" else row.get("error", "")
        left = ""
        if self._total:
            seconds = (time.perf_counter() - self._started) / self._done * (self._total - self._done)
            left = f" ({seconds:.0f} s left)"
        task = config.hydra.overrides.task
        job = " ".join(o for o in task if not self._sweeps or o.lstrip("+~").split("=")[0] in self._sweeps)
        print(f"[{self._done}/{self._total or '?'}] {job}: {row['status']} {outcome}{left}", flush=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            report = get_method(self._report)  # imports pandas and seaborn: only now
            code = report(Path(config.hydra.sweep.dir), config.metric)
        except ConfigError as error:
            code = f"error: {error}"
        except Exception:  # Hydra would make it a warning and exit with 0
            traceback.print_exc()
            code = 1
        if code:
            sys.exit(code)


def swept_keys(config: DictConfig) -> dict[str, int]:
    """The keys that a multirun sweeps, each with its number of values: the command line's over the sweeper's params."""
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
    last_of_key = {o.get_key_element().lstrip("+~"): o for o in overrides}
    return {key: len(list(o.sweep_string_iterator())) for key, o in last_of_key.items() if o.is_sweep_override()}
