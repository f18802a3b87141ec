"""How many CPU threads a training uses."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from mupl.data import digits
from mupl.models import MLP
from mupl.roles import describe
from mupl.training import threads
from mupl.training.threads import choose, set_threads, step_flops

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """16 idle cores, and no word of the user's."""
    monkeypatch.setattr(threads, "_at_start", lambda: (16, 0.2))
    for name in threads.CHOSEN_BY:
        monkeypatch.delenv(name, raising=False)
    threads._say_once.cache_clear()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
    threads._say_once.cache_clear()


@pytest.mark.parametrize(
    ("flops", "load", "number"),
    [
        (2e7, 0, 1),
        (1e8, 0, 1),
        (4e8, 0, 4),
        (4e8, 14, 2),
        (1e10, 0, 16),
        (1e10, 5.4, 11),
        (1e10, 40, 1),
    ],
)
def test_small_steps_take_few_threads_and_large_ones_the_idle_cores(
    flops: float, load: float, number: int
) -> None:
    assert choose(flops, 16, load)[0] == number


def test_what_is_chosen_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    for flops in (1e8, 2e7):
        set_threads("auto", flops, CPU)
        assert torch.get_num_threads() == 1
    said = "1 of 16 CPU threads, as updates are small; threads=N to choose\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("reason", ["environment", "device", "one core"])
def test_nothing_is_changed_where_there_is_nothing_to_choose(
    reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if reason == "environment":
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
    if reason == "one core":
        monkeypatch.setattr(threads, "_at_start", lambda: (1, 0.0))
    device = torch.device("cuda") if reason == "device" else CPU
    set_threads("auto", 1e8, device)
    assert torch.get_num_threads() == 2
    assert not capsys.readouterr().out


def test_a_number_goes_over_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    set_threads(3, 1e8, CPU)
    assert torch.get_num_threads() == 3


def test_the_operations_of_an_update_are_six_for_each_weight_and_example() -> None:
    infos = describe(partial(MLP, 64, 10, depth=2), 32, 32)
    weights = 64 * 32 + 32 * 32 + 32 * 10
    assert step_flops(infos, digits(), batch_size=5) == 6 * 5 * weights


@pytest.mark.parametrize("system", ["linux", "other"])
def test_the_load_is_that_of_the_cores_that_the_process_may_use(
    system: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    running = tmp_path / "loadavg"
    if system == "linux":
        running.write_text("0.20 0.18 0.12 61/7000 11206\n")
    monkeypatch.setattr(threads, "RUNNING", running)
    monkeypatch.setattr("os.getloadavg", lambda: (60.0, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 120)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert threads._at_start.__wrapped__() == (16, 8.0)
