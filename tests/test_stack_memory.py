"""How much memory the plan of a sweep expects a member to take, and how much it takes."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.profiler import ProfilerActivity, profile

from mupl.identity import hydra_of, job_row, without_hydra
from mupl.stacked.describe import nbytes
from mupl.stacked.member import Job
from mupl.stacked.train import train_stack
from tests.commands import ROOT

MEMBERS = 3


def jobs(folder: Path, overrides: list[str]) -> list[Job]:
    found = []
    for seed in range(MEMBERS):
        config = compose(
            "train",
            [*overrides, f"seed={seed}", f"hydra.runtime.output_dir={folder / str(seed)}"],
            return_hydra_config=True,
        )
        row = job_row(config, config.hydra, rooms=["stacked"])
        with hydra_of(config):
            plain = without_hydra(config)
            OmegaConf.resolve(plain)
        job = Job(seed, row["job"], row, folder / str(seed), compose=lambda job: job.config)
        job.config = plain
        found.append(job)
    return found


def peak_bytes(jobs: list[Job], folder: Path) -> int:
    """The most bytes that are held at a time while a stack is trained, beside those before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train_stack(jobs, folder / "states", save_every=1e9, title="stack", rivals=[])
    trace = folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e["name"] == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    held = [event["args"]["Total Allocated"] for event in events]
    return max(held) - (held[0] - events[0]["args"]["Bytes"])


@pytest.mark.parametrize(("callbacks", "most"), [("none", 1.15), ("coordinates", 1.0)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_estimate_is_what_a_stack_takes(
    optimizer: str, callbacks: str, most: float, tmp_path: Path
) -> None:
    overrides = [
        "data=digits",
        "trainer=cpu",
        "width=1024",
        "base_width=256",
        "max_steps=3",
        "batch_size=16",
        f"optimizer={optimizer}",
        f"callbacks={callbacks}",
        "model.zero_readout=true",
    ]
    if callbacks == "coordinates":
        overrides.append("callbacks.coordinates.steps=[0,1,2]")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        members = jobs(tmp_path, overrides)
    estimate = nbytes(members[0].config, members[0].setup)
    peak = peak_bytes(members, tmp_path) / MEMBERS
    assert 0.7 < peak / estimate < most
