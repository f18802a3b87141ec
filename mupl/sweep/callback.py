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
        self._total: int | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._started = time.perf_counter()
        self._total = count_jobs(config)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if self._started is None:
            return
        self._done += 1
        folder = Path(config.hydra.runtime.output_dir)
        row = json.loads((folder / RESULT_FILE).read_text())
        outcome = f"{config.metric} {row[config.metric]:.4g}" if row["status"] == "completed" else row.get("error", "")
        left = ""
        if self._total:
            seconds = (time.perf_counter() - self._started) / self._done * (self._total - self._done)
            left = f" ({seconds:.0f} s left)"
        job = " ".join(config.hydra.overrides.task)
        print(f"[{self._done}/{self._total or '?'}] {job}: {row['status']} {outcome}{left}", flush=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            report = get_method(self._report)  # imports pandas and seaborn: only now
            code = report(Path(config.hydra.sweep.dir), config.metric)
        except Exception:  # Hydra would make it a warning and exit with 0
            traceback.print_exc()
            code = 1
        if code:
            sys.exit(code)


def count_jobs(config: DictConfig) -> int | None:
    """The number of jobs of Hydra's own sweeper; None for others, which decide as they go."""
    if not str(config.hydra.sweeper._target_).endswith(BasicSweeper.__name__):
        return None
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
    last_of_key = {o.get_key_element(): o for o in overrides}
    return math.prod(len(list(o.sweep_string_iterator())) for o in last_of_key.values() if o.is_sweep_override())
