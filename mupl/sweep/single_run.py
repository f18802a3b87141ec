"""What a run that is alone leaves beside its tables."""

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from mupl.training.processes import is_first_process

METRICS_FILE = "metrics.csv"  # of conf/logger/csv.yaml


class LossCurve(Callback):
    """A Hydra callback that draws the losses of a single run into `losses.png`, as it ends."""

    def __init__(self) -> None:
        self._alone = False

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._alone = True

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        folder = Path(config.hydra.runtime.output_dir)
        if self._alone and is_first_process() and (folder / METRICS_FILE).exists():
            draw(folder)


def draw(folder: Path) -> bool:
    """Draw the losses in a run's folder; return whether any was logged."""
    import pandas as pd

    from mupl.figures.losses import LOSSES, plot_losses

    metrics = pd.read_csv(folder / METRICS_FILE)
    if not any(column in metrics and metrics[column].notna().any() for column in LOSSES):
        return False
    figure = plot_losses(metrics, folder.name)
    figure.savefig(folder / "losses.png", dpi=120, bbox_inches="tight")
    return True
