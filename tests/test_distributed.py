"""Two processes train what one trains: DDP, and FSDP2 however it is sharded and initialised."""

import pytest
import torch

import mupl
from scripts.two_gpus import MODELS, WAYS, described
from tests.commands import run_twice


@pytest.fixture(scope="module")
def table() -> dict[tuple[str, str], str]:
    """The verdicts of the script on two processes, by model and way."""
    done = run_twice("scripts/two_gpus.py")
    assert "2 processes on cpu" in done.stdout, done.stderr
    found = {}
    for line in done.stdout.splitlines()[1:]:
        name, way, *_, verdict = line[:24].strip(), *line[24:].split()
        found[name, way] = verdict
    return found


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_two_processes_train_what_one_trains(name: str, way: object, table: dict) -> None:
    assert table[name, way.__name__] == "ok"  # type: ignore[attr-defined]


def test_memory_that_nobody_filled_is_no_initial_value() -> None:
    build, scales = described("tied")
    with torch.device("meta"):
        model = build(32)
    model.to_empty(device="cpu")
    for w in model.parameters():
        torch.nn.init.zeros_(w)
    with pytest.raises(mupl.ConfigError, match=r"embedding.weight: holds no initial values.*draw="):
        mupl.initialize_(model, scales)
