"""The norm of a readout: what it bounds, of which tensor it is, and the same in both engines."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import mupl
from mupl.models import GPT, MLP
from mupl.roles import ParamInfo
from mupl.stats.readout_norm import readout_norm, readout_of


def test_no_input_of_rms_one_has_a_larger_output_and_one_attains_it() -> None:
    torch.manual_seed(0)
    w = torch.randn(5, 24, dtype=torch.float64)
    info = mupl.describe(lambda width: nn.Linear(width, 5), 24, 12)["weight"]
    assert isinstance(info, ParamInfo)
    norm = readout_norm(w, info)
    x = torch.randn(24, 1000, dtype=torch.float64)
    x = torch.cat([x, w.mT], 1)
    x = x / x.square().mean(0).sqrt()
    assert (w @ x).abs().max().item() == pytest.approx(norm.item(), rel=1e-12)
    # of a stack, and of a tensor that is stored transposed
    stacked = readout_norm(torch.stack([w, 2 * w]), info, members=1)
    assert stacked.tolist() == pytest.approx([norm.item(), 2 * norm.item()])


def test_a_readout_that_is_stored_transposed_has_its_rows_in_columns() -> None:
    info = mupl.describe(lambda width: nn.Linear(width, 3), 8, 4)["weight"]
    assert isinstance(info, ParamInfo)
    info = replace(info, shape=(8, 3), out_first=False)
    w = torch.zeros(8, 3)
    w[:, 1] = 2.0
    assert readout_norm(w, info).item() == pytest.approx(8 * 2)
    assert readout_norm(torch.stack([w, w]), info, members=1).tolist() == pytest.approx([16, 16])


def test_it_is_of_the_effective_weight() -> None:
    norms = []
    for parametrization in ("mup", "mup_table3", "mup_table9"):
        setup = mupl.Setup(
            partial(MLP, 6, 3), 32, base_width=8, parametrization=parametrization, lr=0.1
        )
        norms.append(setup.readout_norm())
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-5)


def gpt(width: int, depth: int = 2, **options: Any) -> GPT:
    return GPT(vocabulary=11, context=8, width=width, depth=depth, d_head=8, **options)


def heads(width: int) -> nn.Module:
    return nn.ModuleDict({"classes": nn.Linear(width, 3), "value": nn.Linear(width, 1)})


@pytest.mark.parametrize(
    ("build", "readout"),
    [
        (gpt, "readout.weight"),
        (partial(gpt, experts=4), "readout.weight"),  # whose routers are readouts by their shapes
        (partial(gpt, tied=True), None),
        (heads, None),
    ],
)
def test_which_matrix_it_is_of(build: Any, readout: str | None) -> None:
    assert readout_of(mupl.describe(build, 32, 8)) == readout
