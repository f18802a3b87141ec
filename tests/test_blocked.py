"""SOAP and Shampoo in blocks and grafted: beside the library, block by block, and their rules."""

from functools import partial
from typing import Any

import pytest
import pytorch_optimizer
import torch
from torch import Tensor, nn

import mupl
from mupl.errors import ConfigError
from mupl.models import MLP
from mupl.optim.blocked import GRAFTS, BlockedShampoo, BlockedSOAP
from mupl.optim.blocks import tiles
from mupl.optim.registry import optimizer_rules

SHAPES = [(6, 6), (5,), (7, 4), (3, 4, 2, 2)]
METHODS = {
    "soap": (
        partial(BlockedSOAP, precondition_frequency=3),
        partial(pytorch_optimizer.SOAP, precondition_frequency=3),
    ),
    "shampoo": (
        partial(BlockedShampoo, matrix_eps=1e-2, preconditioning_compute_steps=2),
        partial(
            pytorch_optimizer.Shampoo,
            matrix_eps=1e-2,
            preconditioning_compute_steps=2,
            weight_decouple=True,
        ),
    ),
}


def gradients(shapes: Any, steps: int = 8) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(steps):
        of_step = []
        for shape in shapes:
            of_step.append(torch.randn(*shape, dtype=torch.float64, generator=generator))
        found.append(of_step)
    return found


def trained(optimizer: Any, given: list[list[Tensor]], **options: Any) -> list[Tensor]:
    """Weights that start at 0, after a step by each list of gradients."""
    weights = [nn.Parameter(torch.zeros_like(g)) for g in given[0]]
    stepper = optimizer(weights, lr=0.1, **options)
    for of_step in given:
        for w, g in zip(weights, of_step, strict=True):
            w.grad = g.clone()
        stepper.step()
    return [w.detach() for w in weights]


@pytest.mark.parametrize("shape", [(7,), (6, 6), (7, 5), (3, 7, 2)])
def test_every_entry_is_in_one_block(shape: tuple[int, ...]) -> None:
    x = torch.arange(2 * torch.Size(shape).numel()).view(2, *shape)
    again = torch.full_like(x, -1)
    entries = 0
    for tile in tiles(shape, 3):
        assert max(tile.shape) <= 3
        blocks = tile.take(x)
        assert blocks.shape == (2 * tile.count, *tile.shape)
        tile.put(again, blocks)
        entries += blocks.numel()
    assert torch.equal(again, x)
    assert entries == x.numel()


@pytest.mark.parametrize("name", METHODS)
def test_without_blocks_and_graft_it_is_the_library_s(name: str) -> None:
    ours, theirs = METHODS[name]
    # of square matrices: a null space of the first gradient is whatever rounding makes it
    shapes = [(6, 6), (5,)] if name == "soap" else SHAPES
    given = gradients(shapes)
    pairs = zip(trained(ours, given), trained(theirs, given, weight_decay=0.0), strict=True)
    for w, expected in pairs:
        torch.testing.assert_close(w, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_a_block_is_trained_as_a_tensor_of_its_own(name: str) -> None:
    ours, theirs = METHODS[name]
    given = gradients([(6, 9)])
    (whole,) = trained(partial(ours, block_size=3), given)
    for row in (0, 3):
        for column in (0, 3, 6):
            part = slice(row, row + 3), slice(column, column + 3)
            (alone,) = trained(theirs, [[g[part].contiguous()] for (g,) in given], weight_decay=0.0)
            torch.testing.assert_close(whole[part], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("graft", GRAFTS)
def test_a_grafted_update_has_the_norm_of_the_other_s_and_its_own_direction(graft: str) -> None:
    betas, eps = (0.8, 0.9), 1e-3
    shampoo = partial(BlockedShampoo, matrix_eps=1e-2, betas=betas, eps=eps, block_size=4)
    others: dict[str, Any] = {
        "adam": partial(torch.optim.Adam, betas=betas, eps=eps),
        "rmsprop": partial(torch.optim.Adam, betas=(0.0, betas[1]), eps=eps),
        "sgd": torch.optim.SGD,
    }
    given = gradients(SHAPES, steps=4)
    for steps in (1, 2, 3):
        first, last = given[:steps], given[: steps + 1]
        updates = []
        for optimizer in (partial(shampoo, graft=graft), shampoo, others[graft]):
            before, after = trained(optimizer, first), trained(optimizer, last)
            updates.append([b - a for a, b in zip(before, after, strict=True)])
        for grafted, own, other in zip(*updates, strict=True):
            expected = own * other.norm() / own.norm()
            torch.testing.assert_close(grafted, expected, rtol=1e-9, atol=1e-12)


def test_the_first_step_of_soap_moves_nothing_grafted_or_not() -> None:
    (w,) = trained(partial(BlockedSOAP, graft="adam"), gradients([(8, 8)], steps=1))
    assert torch.equal(w, torch.zeros_like(w))


def kinds(optimizer: Any, width: int = 64) -> list[str]:
    """Of an input layer n x 6, a hidden 2n x n, a hidden n x 2n and a readout 3 x n."""
    infos = mupl.describe(lambda w: MLP(6, 3, [w, 2 * w, w], bias=False), width, 16)
    rules = optimizer_rules(optimizer)
    return [str(rules.kind_of(info)) for info in infos.values()]


SMALL, LARGE = 8, 64  # below all sides that grow, and as large as half of them
UNBLOCKED_SOAP, UNBLOCKED_SHAMPOO = ["rotated_in"] * 4, ["whitened"] * 4


@pytest.mark.parametrize(
    ("make", "block_size", "graft", "expected"),
    [
        (BlockedSOAP, None, None, UNBLOCKED_SOAP),
        (BlockedSOAP, LARGE, None, ["rotated_in", "rotated_in", "rotated_out", "rotated_in"]),
        (BlockedSOAP, SMALL, None, ["rotated_in", "adam", "adam", "rotated_out"]),
        (BlockedSOAP, SMALL, "adam", ["adam"] * 4),
        (BlockedSOAP, SMALL, "sgd", ["sgd"] * 4),
        (BlockedShampoo, None, None, UNBLOCKED_SHAMPOO),
        (BlockedShampoo, LARGE, None, ["whitened", "rotated_in", "rotated_out", "whitened"]),
        (BlockedShampoo, SMALL, None, ["adam"] * 4),
        (BlockedShampoo, SMALL, "rmsprop", ["adam"] * 4),
        (BlockedShampoo, None, "sgd", ["sgd"] * 4),
    ],
)
def test_a_side_in_blocks_of_a_fixed_size_gains_nothing(
    make: Any, block_size: int | None, graft: str | None, expected: list[str]
) -> None:
    assert kinds(partial(make, block_size=block_size, graft=graft)) == expected


def test_a_vector_has_norm_one_and_in_blocks_as_many_as_these() -> None:
    info = mupl.describe(lambda w: nn.Linear(3, w), 64, 16)["bias"]
    found = []
    for size in (None, 8):
        rules = optimizer_rules(partial(BlockedShampoo, block_size=size))
        assert rules.matrix_eps is not None
        found.append((rules.kind_of(info), rules.matrix_eps.kind_of(info)))
    assert found == [("orthogonal", "rotated"), ("adam", "adam")]


@pytest.mark.parametrize("optimizer", [BlockedSOAP, BlockedShampoo])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 0}, "optimizer.block_size=0: must be a whole number >= 1"),
        ({"block_size": 2.5}, "optimizer.block_size=2.5: must be a whole number >= 1"),
        ({"graft": "lion"}, "optimizer.graft=lion: must be null or one of adam, rmsprop, sgd"),
    ],
)
def test_bad_options_are_refused(optimizer: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mupl.Setup(
            partial(MLP, 6, 3), 16, base_width=8, optimizer=partial(optimizer, **options), lr=1
        )


def test_grafted_soap_without_blocks_has_no_rule_and_is_refused() -> None:
    build = partial(MLP, 6, 3)
    for size in (None, 8):  # 8: in blocks here, and not at the base width
        soap = partial(BlockedSOAP, graft="adam", block_size=size)
        with pytest.raises(ConfigError, match=r"graft=adam: no rule .*block_size below its sides"):
            mupl.Setup(build, 16, base_width=8, optimizer=soap, lr=0.1)
    soap = partial(BlockedSOAP, graft="adam", block_size=4)
    mupl.Setup(build, 16, base_width=8, optimizer=soap, lr=0.1)
