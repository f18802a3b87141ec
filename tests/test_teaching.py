"""The smallest example: its script against formulas, and the exponents that it teaches."""

import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from mupl.initializers import default_dtype
from mupl.nn.initialize import initialize_
from mupl.nn.scaled_parameters import effective
from mupl.optim.scaling import scale
from mupl.roles import describe

SCRIPT = Path(__file__).parents[1] / "scripts/teaching.py"
teaching = runpy.run_path(str(SCRIPT))
train, build, LR, Y = (teaching[name] for name in ("train", "build", "LR", "Y"))
RATES = {"sp": lambda n: (1, 1), "mup": lambda n: (n, 1 / n)}  # learning rates of U and V over LR


def by_formula(n: int, name: str, seed: int) -> list[float]:
    """f at t = 0, 1, 2 from f, |U|^2, |V|^2: with e = f - Y, U -= LR_U e V and V -= LR_V e U."""
    scales = scale(describe(build, n, 1), name, "sgd", lr=LR)
    torch.manual_seed(seed)
    model = initialize_(build(n), scales)
    u, v = (effective(layer, "weight").detach().flatten() for layer in model)
    f, uu, vv = float(u @ v), float(u @ u), float(v @ v)
    rate_u, rate_v = (LR * factor for factor in RATES[name](n))
    found = [f]
    for _ in range(2):
        e = f - Y
        f, uu, vv = (
            f - e * (rate_v * uu + rate_u * vv) + rate_u * rate_v * e**2 * f,
            uu - 2 * rate_u * e * f + (rate_u * e) ** 2 * vv,
            vv - 2 * rate_v * e * f + (rate_v * e) ** 2 * uu,
        )
        found.append(f)
    return found


@pytest.mark.parametrize("name", ["sp", "mup"])
@pytest.mark.parametrize("n", [2, 64, 2**16])
def test_two_updates_follow_the_formula(n: int, name: str) -> None:
    with default_dtype(torch.float64):
        rows, expected = train(n, name, seed=3), by_formula(n, name, seed=3)
    found = rows[(rows["kind"] == "output") & (rows["name"] == "1")]
    assert list(found["value"]) == pytest.approx([abs(f) for f in expected], rel=1e-9)


def test_formulations_of_mup_are_one_network() -> None:
    with default_dtype(torch.float64):
        reference, *others = (
            train(256, name)["value"] for name in ("mup", "mup_table3", "mup_table9", "mulinear")
        )
    for other in others:
        pd.testing.assert_series_equal(other, reference, rtol=1e-9)


def test_what_blows_up_with_width_and_what_does_not() -> None:
    widths = [2**k for k in range(6, 17, 2)]
    rows = pd.concat([train(n, p, s) for p in ("sp", "mup") for n in widths for s in range(5)])
    table = teaching["slopes"](rows).pivot(
        index=["quantity", "updates"], columns="parametrization", values="slope"
    )
    found = {key: (row["sp"], row["mup"]) for key, row in table.iterrows()}
    expected = {
        ("|f|", 1): (1, 0),
        ("|f|", 2): (3, 0),
        ("change of U and Ux", 1): (-0.5, 0),
        ("change of U and Ux", 2): (1, 0),
        ("change of V", 1): (0, -1),
        ("change of V", 2): (1, -1),
    }
    for key, (sp, mup) in expected.items():
        assert found[key][0] == pytest.approx(sp, abs=0.4), (
            key
        )  # with the noise of f(1) - Y at the start
        assert found[key][1] == pytest.approx(mup, abs=0.05), key


def test_the_script_ends_with_a_table_and_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "teaching.py",
        "--widths",
        "4",
        "64",
        "1024",
        "--seeds",
        "2",
        "--folder",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "change of U and Ux" in capsys.readouterr().out
    assert (tmp_path / "teaching.png").stat().st_size > 10_000
    assert len(pd.read_csv(tmp_path / "teaching.csv")) == 2 * 3 * 2 * (3 * 2 + 2 * 2)
