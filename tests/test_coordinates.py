"""Verdicts on rows whose slopes are known, and the exponents that tables predict."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mupl.analysis.coordinates import sentences, verdict, verdict_json
from mupl.analysis.norms import correlations, update_norms
from mupl.analysis.slopes import fit_slope, interval, jackknife
from mupl.errors import ConfigError
from mupl.figures.coordinates import PANELS, plot_coordinates
from mupl.models import MLP
from mupl.optim.orthogonal import SHAPE_FACTORS, Orthogonal
from mupl.optim.registry import optimizer_rules
from mupl.parametrization.exponents import (
    ZERO,
    Expected,
    Seen,
    expected_exponents,
    shape_factor_exponent,
)
from mupl.parametrization.rules import get_parametrization
from mupl.parametrization.update_kinds import OptimizerRules, as_optimizer_rules
from mupl.roles import ParamInfo, describe

WIDTHS = (128, 256, 512, 1024)


def rows(
    power: float, *, low: float = 0.0, high: float = 0.0, zero: bool = False, scale: float = 1.0
) -> pd.DataFrame:
    """value = scale * width^power, times a factor a seed and a little of the seed in the slope."""
    table = [
        {
            "width": width,
            "seed": seed,
            "t": 1,
            "kind": "output",
            "name": "layers.1",
            "statistic": "l1",
            "value": scale * (1 + seed) * width ** (power + 0.01 * (seed - 1)),
            "low": low,
            "high": high,
            "zero": zero,
            "parametrization": "mup",
            "optimizer": "adam",
        }
        for width in WIDTHS
        for seed in range(3)
    ]
    return pd.DataFrame(table)


def test_the_slope_is_that_of_the_logarithms() -> None:
    width = pd.Series([1, 2, 4, 8])
    table = pd.DataFrame({"width": width, "value": 3 * width**-0.5, "seed": 0})
    assert fit_slope(table, "width").slope == pytest.approx(-0.5)
    for wrong in (0, math.inf):
        assert math.isnan(fit_slope(table.assign(value=[1, 1, wrong, 1]), "width").slope)


def test_the_error_of_a_slope_is_that_of_a_regression_with_a_constant_for_each_seed() -> None:
    table = rows(0.3)
    noise = np.random.default_rng(0).normal(size=len(table))
    table["value"] *= np.exp(noise)
    fit = fit_slope(table, "width")
    columns = [np.log2(table["width"]), *(table["seed"] == seed for seed in range(3))]
    design = np.stack(columns, axis=1).astype(float)
    y = np.log2(table["value"])
    found, residual, _, _ = np.linalg.lstsq(design, y, rcond=None)
    variance = residual[0] / (len(y) - 4) * np.linalg.inv(design.T @ design)[0, 0]
    assert (fit.slope, fit.error, fit.freedom) == pytest.approx((found[0], variance**0.5, 8))


def test_the_interval_is_students() -> None:
    low, high = interval(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), rel=1e-3)
    assert all(math.isnan(bound) for bound in interval(np.array([1.0])))


def test_the_jackknife_of_a_mean_is_its_interval() -> None:
    values = np.array([1.0, 2.0, 3.0, 7.0])
    low, high = interval(values)
    without = (values.sum() - values) / 3
    assert jackknife(without) == pytest.approx((high - low) / 2)
    assert all(math.isnan(jackknife(without[:n])) for n in (0, 1))


@pytest.mark.parametrize(
    ("power", "expected", "word"),
    [
        (0.0, {}, "pass"),
        (0.09, {}, "pass"),
        (0.11, {}, "fail"),
        (-0.09, {}, "pass"),
        (-0.11, {}, "fail"),
        (-0.5, {"low": -0.5, "high": -0.5}, "pass"),
        (-0.3, {"low": -0.5, "high": 0.0}, "pass"),
        (0.2, {"low": -0.5, "high": 0.0}, "fail"),
        (0.0, {"zero": True}, "fail"),
        (0.0, {"zero": True, "scale": 0.0}, "pass"),
        (0.0, {"scale": 0.0}, "not judged"),
        (0.0, {"scale": math.inf}, "fail"),
    ],
)
def test_a_verdict_is_whether_the_slope_lies_where_it_must(
    power: float, expected: dict, word: str
) -> None:
    table = verdict(rows(power, **expected))
    (row,) = table.to_dict("records")
    assert row["verdict"] == word
    assert bool(row["reason"]) is (word != "pass")
    if "scale" not in expected:
        assert row["slope"] == pytest.approx(power)
        assert row["ci_low"] < power < row["ci_high"]
    summary = verdict_json(table)
    counts = (summary["checked"], summary["failures"], summary["not_judged"])
    assert counts == (1, int(word == "fail"), int(word == "not judged"))
    assert summary["passed"] is (word != "fail")


NOISY = {  # slopes by seed -> verdict, where the slope must be 0
    "wide scatter around the limit": ((-0.5, 0.0, 0.6, 0.4, 0.3), "not judged"),
    "wide scatter around 0": ((-0.9, 0.8, -0.2, 0.4, 0.0), "not judged"),
    "little scatter around 0": ((-0.1, 0.1, 0.05, -0.05, 0.0), "pass"),
    "little scatter around 1/2": ((0.4, 0.6, 0.55, 0.45, 0.5), "fail"),
    "one seed, far off": ((0.5,), "fail"),
}


@pytest.mark.parametrize("case", NOISY)
def test_the_interval_of_a_slope_decides(case: str) -> None:
    """Small tensors at few seeds scatter: that is no failure, and no pass."""
    slopes, word = NOISY[case]
    table = []
    for seed, power in enumerate(slopes):
        for width in WIDTHS:
            table.append({"width": width, "seed": seed, "value": float(width) ** power})
    found = verdict(pd.DataFrame(table).assign(t=1, kind="output", name="a", **RIGHT))
    assert found["verdict"].tolist() == [word]


RIGHT = {"statistic": "l1", "low": 0.0, "high": 0.0, "zero": False}


def test_two_sizes_and_one_seed_tell_what_is_far_off_only() -> None:
    table = rows(0.0).query("seed == 0 and width <= 256")
    assert verdict(table)["verdict"].tolist() == ["not judged"]
    table = rows(0.5).query("seed == 0 and width <= 256")
    assert verdict(table)["verdict"].tolist() == ["fail"]


def test_chance_fails_no_more_than_one_check_in_twenty() -> None:
    """A check is of 25 small tensors that are right but scatter much, at three seeds."""
    generator = np.random.default_rng(0)
    failed = 0
    for _ in range(20):
        parts = []
        for name in range(25):
            part = rows(0.0).assign(name=str(name))
            part["value"] *= np.exp2(generator.normal(size=len(part)))
            parts.append(part)
        failed += (verdict(pd.concat(parts))["verdict"] == "fail").any()
    assert failed <= 3


def test_what_fades_as_the_sizes_grow_is_not_judged_and_what_stays_fails() -> None:
    def found(local: tuple[float, ...]) -> pd.DataFrame:
        values = np.exp2(np.cumsum([0.0, *local]))
        table = rows(0.0)
        table["value"] = table["width"].map(dict(zip(WIDTHS, values, strict=True)))
        return verdict(table)

    fading = found((0.5, 0.3, 0.1))
    assert fading["verdict"].tolist() == ["not judged"]
    assert "take larger ones" in fading["reason"].item()
    assert found((0.3, 0.3, 0.3))["verdict"].tolist() == ["fail"]
    assert found((0.1, 0.3, 0.5))["verdict"].tolist() == ["fail"]


def test_rounding_errors_of_a_gradient_are_no_signal() -> None:
    moved = rows(0.7).assign(kind="update", name="attention.k.bias")
    silent = {"kind": "grad", "low": math.nan, "high": math.nan, "value": 1e-10}
    gradients = [
        moved.assign(**silent),
        moved.assign(**silent | {"name": "attention.k.weight", "value": 1e-3}),
    ]
    assert verdict(moved)["verdict"].tolist() == ["fail"]
    table = verdict(pd.concat([moved, *gradients]))
    assert table["verdict"].tolist() == ["not judged"]
    assert "rounding errors" in table["reason"].item()


def test_a_sentence_says_what_a_failure_means_once_for_all_blocks() -> None:
    wrong = rows(-0.5, low=-1.0, high=-1.0)
    parts = [wrong.assign(kind="update", name=f"blocks.{i}.up.weight", t=i) for i in range(2)]
    (line,) = sentences(verdict(pd.concat(parts)))
    assert line == (
        "update blocks.0.up.weight and 1 like it, t = 0, 1: the update of blocks.0.up.weight goes "
        "as width^-0.50 and must as width^-1: its learning rate is too large by width^0.50: check "
        "its role (roles=...) and how its optimizer's updates scale (update_kind=...)"
    )


def test_each_tensor_kind_step_and_series_has_a_verdict_of_its_own() -> None:
    parts = [
        rows(0.0),
        rows(0.5).assign(name="readout"),
        rows(0.0).assign(t=2),
        rows(1.0).assign(parametrization="sp"),
    ]
    table = verdict(pd.concat(parts))
    failed = table[table["verdict"] == "fail"]
    assert len(table) == 4
    assert set(zip(failed["parametrization"], failed["name"], strict=True)) == {
        ("mup", "readout"),
        ("sp", "layers.1"),
    }


def test_one_width_is_no_check_and_rows_without_prediction_are_not_judged() -> None:
    with pytest.raises(ConfigError, match="width: a coordinate check needs at least two"):
        verdict(rows(0.0).query("width == 128"))
    silent = rows(0.7).assign(low=math.nan, high=math.nan, kind="grad")
    assert len(verdict(pd.concat([rows(0.0), silent]))) == 1


MUP, MUON = get_parametrization("mup"), optimizer_rules(Orthogonal)
UPDATE_KINDS = {"sgd": "sgd", "adam": "adam", "orthogonal": "orthogonal", "muon": MUON}


def test_what_positions_of_images_make_of_an_update_may_be_random() -> None:
    infos = described()
    usual = expected_exponents(infos, MUP, "adam", t=2)
    found = expected_exponents(infos, MUP, "adam", t=2, seen=Seen(of_images=["layers.1"]))
    assert usual["effective", "layers.1"] == Expected(0, 0)
    assert found["effective", "layers.1"] == Expected(-0.5, 0)
    assert found["propagating", "readout"].low == usual["propagating", "readout"].low - 0.5
    for key in usual:
        if key[0] != "propagating" and key != ("effective", "layers.1"):
            assert found[key] == usual[key]


def described(zero_readout: bool = False, **options: Any) -> dict[str, ParamInfo]:
    return describe(lambda w: MLP(6, 3, w, zero_readout=zero_readout), 32, 16, **options)


def expected(
    parametrization: str, update_kind: str | OptimizerRules, zero_readout: bool = True
) -> dict:
    return by_step(described(zero_readout), get_parametrization(parametrization), update_kind)


def by_step(*arguments: Any) -> dict:
    """(kind, name, t) -> prediction."""
    return {
        (*key, t): value
        for decay in (True, False)
        for t in range(3)
        for key, value in expected_exponents(*arguments, t=t, decay=decay).items()
    }


@pytest.mark.parametrize(
    ("name", "update_kind"),
    [
        (n, f)
        for n in ("mup", "mup_table3", "mup_table9", "unit_init", "mean_field")
        for f in UPDATE_KINDS
    ]
    + [("mulinear", "sgd"), ("mulinear", "adam")],
)
def test_every_formulation_of_mup_predicts_the_published_exponents(
    name: str, update_kind: str
) -> None:
    """PARAMETRIZATIONS: outputs 0; input W, dW, biases 0, 0; hidden -1/2, -1; output -1, -1."""
    found = expected(name, UPDATE_KINDS[update_kind], zero_readout=False)
    for t in (0, 1, 2):
        for tensor, w, dw in (
            ("layers.0.weight", 0, 0),
            ("layers.1.weight", -0.5, -1),
            ("readout.weight", -1, -1),
        ):
            assert found["param", tensor, t] == Expected(w, w), (tensor, t)
            assert found["update", tensor, t] == Expected(dw, dw), (tensor, t)
        for bias in ("layers.0.bias", "layers.1.bias", "readout.bias"):
            assert found["update", bias, t] == Expected(0, 0)
            assert found["param", bias, t] == (ZERO if t == 0 else Expected(0, 0))
        assert found["output", "layers.1", t] == Expected(0, 0)
    assert found["output", "readout", 0] == Expected(-0.5, -0.5)
    assert found["output", "readout", 1] == Expected(-0.5, 0)


def test_a_readout_bias_that_starts_non_zero_is_part_of_the_logits() -> None:
    """Any slope may be between the bias' part, 0, and the weight's part, -1/2 or none."""
    bias = {"readout.bias": {"name": "normal", "std": 0.1}}
    for zero_readout, low in ((False, -0.5), (True, 0.0)):
        infos = described(zero_readout, init=bias)
        found = expected_exponents(infos, MUP, "adam", t=0)
        assert found["output", "readout"] == Expected(low, 0.0)
        found = expected_exponents(infos, MUP, "adam", t=1)
        assert found["output", "readout"] == Expected(low, 0.0)


def test_what_a_model_returns_is_as_its_readouts_and_no_layer_is_judged_by_a_class_token() -> None:
    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.randn(1, 1, width))
            self.down = nn.Linear(width, 4, bias=False)
            self.up = nn.Linear(4, width, bias=False)
            self.head = nn.Linear(width, 3, bias=False)

    infos = describe(Model, 32, 16)
    for t, high in ((0, -0.5), (1, 0.0)):
        found = expected_exponents(infos, MUP, "adam", t)
        assert found["logits", "model output"] == Expected(-0.5, high)
        assert found["attention_logits", "*"] == Expected(-0.5, 0.0)
        assert found["output", "up"] == Expected(-0.5, 0.0)  # behind a bottleneck
        assert ("output", "") not in found
    layer = describe(lambda width: nn.Linear(4, width), 32, 16)
    assert expected_exponents(layer, MUP, "adam", t=0)["output", ""] == Expected()


def test_a_matrix_of_fixed_size_behind_a_block_that_grows_inside_may_make_the_logits() -> None:
    def build(width: int) -> nn.Module:
        inner = (nn.Linear(6, width, bias=False), nn.Linear(width, 6, bias=False))
        return nn.Sequential(nn.Linear(4, 6), *inner, nn.Linear(6, 3))

    infos = describe(build, 32, 16)
    found = expected_exponents(infos, MUP, "adam", t=0)
    assert found["output", "2"] == Expected(-0.5, -0.5)
    assert found["logits", "model output"] == Expected(-0.5, 0.0)
    inner = {name: info for name, info in infos.items() if not name.startswith("3")}
    found = expected_exponents(inner, MUP, "adam", t=0)
    assert found["logits", "model output"] == Expected(
        -0.5, -0.5
    )  # layers before count for nothing


@pytest.mark.parametrize("update_kind", ["sgd", "adam"])
def test_no_gradient_passes_a_zero_readout_at_first(update_kind: str) -> None:
    found = expected("mup", update_kind)
    assert found["update", "layers.1.weight", 0] == ZERO
    assert found["update", "layers.0.bias", 0] == ZERO
    assert found["update", "readout.weight", 0] == Expected(-1, -1)
    assert found["update", "layers.1.weight", 1] == Expected(-1, -1)
    assert found["param", "readout.weight", 0] == ZERO
    assert found["param", "readout.weight", 1] == Expected(-1, -1)
    assert found["output", "readout", 0] == ZERO
    assert found["output", "readout", 1] == Expected(0, 0)
    assert found["decay", "layers.1.weight", 0] == Expected(-0.5, -0.5)


def test_weight_decay_by_an_exponent_shrinks_where_fan_in_grows() -> None:
    infos = describe(lambda width: MLP(6, 3, width), 32, 8)
    arguments = (infos, get_parametrization("mup"), "adam")
    usual = expected_exponents(*arguments, t=1, decay=True)
    found = expected_exponents(*arguments, t=1, decay=True, decay_exponent=0.5)
    shift = {"layers.0.weight": 0.0, "layers.1.weight": -0.5, "readout.weight": -0.5}
    for name, by in shift.items():
        assert found["decay", name].high - usual["decay", name].high == pytest.approx(by)
        assert found["decay", name].low - usual["decay", name].low == pytest.approx(by)
    assert found["decay", "readout.bias"] == usual["decay", "readout.bias"]
    in_depth = expected_exponents(*arguments, t=1, decay=True, along="depth", decay_exponent=0.5)
    assert in_depth["decay", "layers.1.weight"].high == 0.0


def test_an_update_in_a_rotated_basis_lies_between_few_directions_and_all() -> None:
    """Of few directions it has the norm 1 / lr to RMS, as under Adam; of all, entries of lr."""
    infos = describe(lambda width: MLP(6, 3, width), 32, 8)
    found = {}
    for name in ("mup", "sp"):
        for kind in ("rotated", "rotated_in", "rotated_out"):
            rows = expected_exponents(infos, get_parametrization(name), kind, t=1)
            updates = (rows["update", f"{x}.weight"] for x in ("layers.0", "layers.1", "readout"))
            found[name, kind] = [(update.low, update.high) for update in updates]
    assert found == {
        ("mup", "rotated"): [(0, 0), (-1, -0.5), (-1, -0.5)],
        ("mup", "rotated_in"): [(0, 0), (-1, -0.5), (-1, -0.5)],
        ("mup", "rotated_out"): [(0, 0.0), (-1, -0.5), (-1, -1)],
        ("sp", "rotated"): [(-0.5, 0), (-1, -0.5), (-1, -0.5)],
        ("sp", "rotated_in"): [(0, 0), (-1, -0.5), (-1, -0.5)],
        ("sp", "rotated_out"): [(-0.5, 0), (-1, -0.5), (-1, -1)],
    }


@pytest.mark.parametrize(("name", "update_kind"), [("sp", "sgd"), ("sp", "adam"), ("ntk", "adam")])
def test_no_parametrization_may_have_updates_that_make_outputs_grow(
    name: str, update_kind: str
) -> None:
    found = expected(name, update_kind)
    for tensor in ("layers.1.weight", "readout.weight"):
        assert found["update", tensor, 1] == Expected(-1, -1)
    assert found["output", "layers.1", 1] == Expected(0, 0)
    assert found["param", "layers.1.weight", 0] == Expected(-0.5, -0.5)


@pytest.mark.parametrize("update_kind", ["sgd", "adam"])
def test_sp_with_per_layer_learning_rates_predicts_updates_like_those_of_mup(
    update_kind: str,
) -> None:
    found = expected("sp_full_align", update_kind, zero_readout=False)
    for tensor, power in (("layers.0.weight", 0), ("layers.1.weight", -1), ("readout.weight", -1)):
        assert found["update", tensor, 1] == Expected(power, power)


def test_a_whitened_update_may_have_any_rank_but_its_spectral_norm_is_one() -> None:
    """What moves activations is as sharp as under an orthogonal update."""
    found, few = (expected("mup", kind, zero_readout=False) for kind in ("whitened", "orthogonal"))
    assert found["update", "layers.0.weight", 1] == Expected(0, 0.5)
    assert found["update", "layers.1.weight", 1] == Expected(-1, -0.5)
    assert found["update", "readout.weight", 1] == Expected(-1, -1)
    for name in ("layers.0", "layers.1", "readout"):
        assert found["effective", name, 2] == few["effective", name, 2]
        norm = ("update", f"{name}.weight", "spectral", 1)
        assert found[norm] == few[norm]


@pytest.mark.parametrize("scale", SHAPE_FACTORS)
def test_sp_with_orthogonal_updates_predicts_what_the_optimizer_makes_of_shapes(scale: str) -> None:
    """Of a square matrix, that is; the readout, under Adam, fails as ever."""
    update_kind = optimizer_rules(partial(Orthogonal, scale=scale))
    found, infos = expected("sp", update_kind), described()
    assert (
        found["update", "layers.1.weight", 1]
        == found["update", "readout.weight", 1]
        == Expected(-1, -1)
    )
    assert shape_factor_exponent(infos["layers.1.weight"], update_kind) == (
        0.5 if scale == "match_rms_adamw" else 0
    )
    every = optimizer_rules(partial(Orthogonal, scale=scale, roles=("input", "output")))
    ends = [
        shape_factor_exponent(infos[name], every) for name in ("layers.0.weight", "readout.weight")
    ]
    assert (
        ends
        == {
            "spectral": [0.5, -0.5],
            "keller": [0.5, 0],
            "match_rms_adamw": [0.5, 0.5],
            "none": [0, 0],
        }[scale]
    )


def test_an_optimizer_that_starts_late_is_expected_to() -> None:
    infos = described()
    early, late = (replace(as_optimizer_rules("adam"), idle_steps=idle) for idle in (0, 1))
    for t in (0, 1, 2):
        assert expected_exponents(infos, MUP, late, t + 1) == expected_exponents(
            infos, MUP, early, t
        )
    start = expected_exponents(infos, MUP, late, 0)
    assert start["update", "readout.weight"] == start["update", "readout.bias"] == ZERO
    assert start["param", "layers.1.weight"] == Expected(-0.5, -0.5)


def test_neither_overrides_nor_given_roles_change_what_must_be_seen() -> None:
    infos = described(roles={"layers.1.bias": "hidden", "readout.weight": "hidden"})
    parametrization = get_parametrization("mup", {"layers.1.weight": {"lr": 1}})
    for update_kind in ("adam", MUON):
        assert by_step(infos, parametrization, update_kind) == by_step(
            described(), MUP, update_kind
        )


def test_the_figure_has_a_row_a_kind_and_a_column_a_step() -> None:
    parts = [
        rows(0.0).assign(
            kind=kind,
            name={True: "a.bias", False: "a.weight"}[bias] if kind != "output" else "a",
            t=t,
        )
        for kind, bias in PANELS
        for t in (0, 1, 2)
    ]
    figure = plot_coordinates(pd.concat(parts), "mup, adam")
    assert len(figure.axes) == len(PANELS) * 3 == 27
    assert figure.axes[0].get_xscale() == "log"
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xdata(), WIDTHS)
    heights = [axes.get_window_extent().height / figure.dpi for axes in figure.axes]
    assert min(heights) > 1.5  # inches: no label makes its panel shrink


def test_norms_and_their_correlations_are_those_of_the_rows() -> None:
    table = []
    for layer, size in enumerate((1.0, 4.0, 2.0)):
        values = {"frobenius": size, "spectral": 1 / size, "rms_to_rms": size**2}
        table += [
            {"kind": "update", "name": f"layers.{layer}.weight", "statistic": s, "value": v}
            for s, v in values.items()
        ]
        table.append(
            {
                "kind": "output_update",
                "name": f"layers.{layer}",
                "statistic": "rms",
                "value": 3 * size,
            }
        )
    norms = update_norms(pd.DataFrame(table).assign(t=0, parametrization="sp"))
    assert norms["activation_change"].tolist() == [3, 12, 6]
    found = correlations(norms, by="parametrization").set_index("parametrization").loc["sp"]
    assert found.tolist() == pytest.approx([1, -1, 1])
