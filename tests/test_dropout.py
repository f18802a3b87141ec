"""Masks are random, and a function of seed, layer and call alone."""

import math

import pytest
import torch
from torch import Tensor, nn

from mupl.nn.dropout import SMALLEST, Dropout, random_bits, seed_dropout

N = 40_000


def layer_of(seed: int | list[int], p: float = 0.5) -> Dropout:
    layer = Dropout(p)
    seed_dropout(layer, seed)
    return layer


def masks(seed: int | list[int], calls: int, shape: tuple[int, ...], p: float = 0.5) -> Tensor:
    """Which entries are kept, (calls, *shape), float."""
    layer = layer_of(seed, p)
    return torch.stack([(layer(torch.ones(shape)) != 0).float() for _ in range(calls)])


def hashed(counter: int, key: tuple[int, int]) -> int:
    """The hash in Python's whole numbers, which have no sign to look after."""
    x = (counter ^ key[0]) % 2**32
    x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
    x = (x ^ (x >> 15)) ^ key[1] % 2**32
    x = x * 0x846CA68B % 2**32
    return x ^ (x >> 16)


def test_random_bits_are_the_hash_on_32_bits_without_sign() -> None:
    keys = torch.randint(-(2**31), 2**31, (5, 2), generator=torch.Generator().manual_seed(0)).int()
    counters = torch.tensor([0, 1, 2, 1000, 2**31 - 1], dtype=torch.int32)
    bits = random_bits(counters, keys)
    for row, (first, second) in zip(bits.tolist(), keys.tolist(), strict=True):
        expected = [hashed(counter, (first, second)) for counter in counters.tolist()]
        assert [bit % 2**32 for bit in row] == expected


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_an_entry_is_dropped_with_its_probability_and_the_mean_is_kept(p: float) -> None:
    kept = masks(0, 5, (N,), p).mean().item()
    assert kept == pytest.approx(1 - p, abs=4 * math.sqrt(p * (1 - p) / (5 * N)))
    layer = layer_of(0, p)
    values = layer(torch.ones(N)).unique()
    torch.testing.assert_close(values, torch.tensor([0, 1 / (1 - p)]))


def test_masks_of_seeds_layers_calls_and_places_are_independent() -> None:
    """Correlations of 120 masks, and of each with itself some places on, are due to chance."""
    model = nn.ModuleList(Dropout(0.5) for _ in range(4))
    rows = []
    for seed in (0, 1, 2, 2**40):
        seed_dropout(model, seed)
        for layer in model:
            rows += [layer(torch.ones(N)) - 1 for _ in range(6)]
    values = torch.stack(rows)  # entries 1 and -1
    number = len(values)
    chance = 5 / math.sqrt(N)
    between = values @ values.T / N - torch.eye(number)
    assert between.abs().max() < chance
    for lag in (1, 2, 3, 4, 8, 32, 64, 256, 1024):
        correlations = (values * values.roll(lag, 1)).mean(1)
        assert correlations.abs().max() < chance, lag


def test_all_bits_of_a_hash_are_balanced_and_change_with_any_bit_of_the_counter() -> None:
    key = torch.tensor([12345, -6789], dtype=torch.int32)
    counters = torch.arange(4096, dtype=torch.int32)
    bits = random_bits(counters, key)
    for place in range(12):
        changed = bits ^ random_bits(counters ^ (1 << place), key)
        for bit in range(16, 32):  # which decide whether an entry is kept
            share = ((changed >> bit) & 1).float().mean().item()
            assert share == pytest.approx(0.5, abs=0.06), (place, bit)


def test_a_member_of_a_stack_draws_what_it_draws_alone() -> None:
    together = masks([3, 5, 3], 4, (3, 7, 10))
    assert torch.equal(together[:, 0], masks(3, 4, (7, 10)))
    assert torch.equal(together[:, 1], masks(5, 4, (7, 10)))
    assert torch.equal(together[:, 2], together[:, 0])
    assert not torch.equal(together[:, 1], together[:, 0])


def test_members_that_share_a_batch_draw_their_own_masks() -> None:
    shared = masks([3, 5, 8, 9], 2, (2, 60))  # two batches for four members
    assert shared.shape == (2, 4, 60)
    assert torch.equal(shared, masks([3, 5, 8, 9], 2, (4, 60)))


def test_a_model_goes_on_from_its_saved_state_with_the_masks_that_follow() -> None:
    whole = nn.Sequential(Dropout(0.5), Dropout(0.5))
    seed_dropout(whole, 3)
    x = torch.ones(100)
    whole(x)
    resumed = nn.Sequential(Dropout(0.5), Dropout(0.5))
    resumed.load_state_dict(whole.state_dict())
    for _ in range(3):
        assert torch.equal(resumed(x), whole(x))


def test_validation_draws_nothing_and_torchs_generator_is_left_alone() -> None:
    layer = layer_of(0)
    x = torch.ones(50)
    before = torch.get_rng_state()
    first = layer(x)
    layer.eval()
    assert layer(x) is x
    layer.train()
    seed_dropout(layer, 0)
    assert torch.equal(layer(x), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_dropout_there_is_nothing_to_save_and_with_all_of_it_nothing_left() -> None:
    assert not Dropout(0.0).state_dict()
    x = torch.ones(5)
    assert Dropout(0.0)(x) is x
    assert torch.equal(layer_of(0, 1.0)(x), torch.zeros(5))


def test_the_gradient_has_the_mask_of_the_output() -> None:
    x = torch.ones(100, dtype=torch.float64, requires_grad=True)
    y = layer_of(0, 0.3)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, y)


def test_the_smallest_number_is_that_of_int32() -> None:
    assert torch.iinfo(torch.int32).min == SMALLEST


@pytest.mark.slow
def test_compiled_masks_are_the_same() -> None:
    x = torch.ones(3, 50, requires_grad=True)
    plain, compiled = layer_of([1, 2, 3]), layer_of([1, 2, 3])
    function = torch.compile(compiled)
    for _ in range(3):
        y = function(x)
        assert torch.equal(y, plain(x))
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(gradient, y)  # the backward pass has the masks of the forward pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_captured_graph_draws_new_masks_which_are_those_of_a_cpu() -> None:
    on_cpu, on_gpu = layer_of([1, 2, 3]), layer_of([1, 2, 3]).cuda()
    x = torch.ones(3, 1000)
    x_on_gpu = x.cuda()
    on_gpu(x_on_gpu)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = on_gpu(x_on_gpu)
    on_cpu(x)
    for _ in range(3):
        graph.replay()
        assert torch.equal(y.cpu(), on_cpu(x))
