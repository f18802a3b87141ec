"""The closing report of synthetic sweeps, from many result.json files to tables and figures.

    OMP_NUM_THREADS=1 python benchmarks/report.py            # all sweeps
    OMP_NUM_THREADS=1 python benchmarks/report.py 1200/600   # one of them

A sweep "4000/800" has 4,000 jobs on 800 curves of loss over the learning rate, and a panel for each
weight decay. Printed are the seconds of processor time and of the clock that the report takes
without imports, in a process of its own, and how many of them the reading of the results takes.
"""

import contextlib
import io
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple


class Sweep(NamedTuple):
    """How many values of each key a synthetic sweep has; a panel is a value of weight decay."""

    widths: int
    weight_decays: int
    lrs: int
    seeds: int = 1


SWEEPS = {
    "250/50": Sweep(widths=10, weight_decays=5, lrs=5),
    "1000/200": Sweep(widths=20, weight_decays=10, lrs=5),
    "2000/400": Sweep(widths=20, weight_decays=20, lrs=5),
    "4000/800": Sweep(widths=40, weight_decays=20, lrs=5),
    "2000/4": Sweep(widths=4, weight_decays=1, lrs=20, seeds=25),
    "1200/600": Sweep(widths=1, weight_decays=600, lrs=2),
}


def jobs(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Yield the settings of each job and its loss: a parabola in log2(lr), moved by width."""
    values = (sweep.widths, sweep.weight_decays, sweep.lrs, sweep.seeds)
    for i, j, k, seed in product(*map(range, values)):
        octaves = k - sweep.lrs / 2 + i / sweep.widths + 0.1 * math.sin(seed + 3 * j)
        loss = 1 + 1 / (1 + i) + 0.05 * octaves**2
        yield {
            "width": 16 * (i + 1),
            "lr": 2.0 ** (k - 12),
            "seed": seed,
            "weight_decay": j / 1000,
            "val_loss": loss,
        }


def result(job: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what a job leaves as result.json, with a config as long as a real job's."""
    config = {f"key_{i}": {"_target_": "mupl.models.MLP", "value": i} for i in range(25)}
    return {
        "job": job,
        "parametrization": "mup",
        "optimizer": "adamw",
        "model": "mlp",
        "data": "digits",
        "depth": 2,
        "batch_size": 64,
        "max_steps": 100,
        "status": "completed",
        "steps": 100,
        "train_loss": settings["val_loss"],
        "seconds": 0.1,
        "config": config,
        "choices": {"model": "mlp", "data": "digits"},
        **settings,
    }


def write(sweep: Sweep, folder: Path) -> None:
    """Write the folder of each job."""
    for number, settings in enumerate(jobs(sweep)):
        job = f"{number:012x}"
        (folder / job).mkdir(parents=True)
        (folder / job / "result.json").write_text(json.dumps(result(job, settings), indent=1))


def measure(folder: Path) -> dict[str, float]:
    """Time the whole report of a sweep, and of it the reading."""
    from mupl.sweep.reports import get_report
    from mupl.sweep.results import collect

    report = get_report("hyperparameter_transfer")
    started = time.process_time()
    collect(folder)
    read = time.process_time() - started
    clock = time.perf_counter()
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        report(folder, "val_loss")
    processor = time.process_time() - started
    return {"processor": processor, "of it reading": read, "clock": time.perf_counter() - clock}


def main() -> None:
    if sys.argv[1:2] == ["measure"]:  # in a process of its own
        print(json.dumps(measure(Path(sys.argv[2]))))
        return
    for name in sys.argv[1:] or SWEEPS:
        with tempfile.TemporaryDirectory() as folder:
            write(SWEEPS[name], Path(folder))
            command = [sys.executable, __file__, "measure", folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = json.loads(done.stdout)
        each = ", ".join(f"{part} {value:.1f} s" for part, value in seconds.items())
        print(f"{name} jobs/curves: {each}", flush=True)


if __name__ == "__main__":
    main()
