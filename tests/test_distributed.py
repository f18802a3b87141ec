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


def test_drawing_gives_what_init_for_all_tensors_gives() -> None:
    """`draw=True` fills any model, whatever it holds, from the distributions of its constructor."""
    build, scales = described("tied")
    with torch.device("meta"):
        empty = build(32)
    empty.to_empty(device="cpu")
    empty.readout.weight = empty.embedding.weight  # which `to_empty` separates
    mupl.initialize_(empty, scales, seed=0, draw=True)
    full = mupl.initialize_(build(32), scales, seed=0, draw=True)
    for name, w in empty.named_parameters():
        assert torch.equal(w, full.get_parameter(name)), name
        expected = scales[name].init
        torch.testing.assert_close(w.std().item(), expected.std, rtol=0.2, atol=0)
        before = w.detach().clone()
        mupl.initialize_(empty, scales)  # knows that drawn values have their scale already
        assert torch.equal(w, before)
    assert not torch.equal(mupl.initialize_(build(32), scales, seed=1, draw=True).hidden.weight, w)
    with pytest.raises(mupl.ConfigError, match="seed"):
        mupl.initialize_(build(32), scales, draw=True)


def test_values_without_a_distribution_cannot_be_drawn() -> None:
    def orthogonal(width: int) -> torch.nn.Module:
        model = torch.nn.Linear(width, width)
        torch.nn.init.orthogonal_(model.weight)
        return model

    setup = mupl.Setup(orthogonal, 32, base_width=8, lr=0.1)
    with pytest.raises(mupl.ConfigError, match=r"draw: the values of weight are loaded or made"):
        mupl.initialize_(orthogonal(32), setup.scales, seed=0, draw=True)


class Sharded(torch.Tensor):
    """Says that it is a part of a tensor, as a DTensor does."""

    placements = ()


def test_statistics_of_sharded_weights_are_refused() -> None:
    model = torch.nn.Linear(3, 3)
    model.weight = torch.nn.Parameter(torch.ones(3, 3).as_subclass(Sharded))
    with pytest.raises(mupl.ConfigError, match="weight is sharded over processes"):
        mupl.Recorder(model)
