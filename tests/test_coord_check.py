"""Coordinate checks by training: muP passes; SP and every mistake are caught and named."""

import itertools
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import pytorch_optimizer
import torch
from torch import nn

from mupl.analysis.coordinates import verdict
from mupl.data import Splits, digits, image_folder
from mupl.data.modules import TensorData
from mupl.errors import ConfigError
from mupl.initializers import default_dtype
from mupl.models import MLP
from mupl.optim.normalized import Normalized
from mupl.optim.orthogonal import Orthogonal
from mupl.optim.scion import Scion
from mupl.parametrization.rules import get_parametrization
from mupl.report import coordinate_check as report
from mupl.training.coord_check import coord_check

# for CIFAR-10, which has 48 times as many inputs as digits
ADAM_TYPE = {"lr": 0.01, "input_mult": 2**-3, "output_mult": 2**-4}
COMMON: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": ("sgd", {"lr": 0.1, "input_mult": 2**-4, "output_mult": 2**5, "seeds": range(10)}),
    "adam": ("adam", ADAM_TYPE),
    "adamw": ("adamw", ADAM_TYPE | {"weight_decay": 0.1}),
}
# Batches of 16, below every width: the rank of a gradient must not grow with width. SOAP, whose
# updates settle late, is in tests/test_late_check.py.
OTHERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lion": ("lion", ADAM_TYPE),
    "sign_sgd": ("sign_sgd", ADAM_TYPE),
    "adam_atan2": ("adam_atan2", ADAM_TYPE),
    "shampoo": (
        partial(pytorch_optimizer.Shampoo, matrix_eps=1e-12),
        ADAM_TYPE | {"lr": 0.1, "seeds": range(2), "widths": (64, 128, 256)},
    ),
    "shampoo_svd": ("shampoo_svd", ADAM_TYPE | {"lr": 0.1}),
    "muon": ("muon", ADAM_TYPE | {"lr": 0.1}),
    # steps of a fiftieth: Adam's first directions have a low rank, so that much larger ones with
    # one Frobenius norm at all widths move wide layers further
    "adamh": ("adamh", ADAM_TYPE | {"lr": 0.02}),
    "muonh": ("muonh", ADAM_TYPE | {"lr": 0.02}),
    "scion": (partial(Scion, matrix_radius=2.0, readout_radius=2.0), ADAM_TYPE | {"lr": 0.05}),
    "adam_spectral": (partial(Normalized, normalise="spectral"), ADAM_TYPE | {"lr": 0.05}),
    "adam_frobenius": (partial(Normalized, normalise="frobenius"), ADAM_TYPE | {"lr": 0.05}),
    "muon_keller": (partial(Orthogonal, scale="keller"), ADAM_TYPE | {"lr": 0.1}),
    "muon_match_rms_adamw": (partial(Orthogonal, scale="match_rms_adamw"), ADAM_TYPE | {"lr": 0.1}),
}
NORMALISED = ("adamh", "muonh", "adam_spectral", "adam_frobenius")
READOUT = {("output", "readout"), ("update", "readout.weight")}
HIDDEN = ("update", "layers.1.weight")
WIDTHS, TO_2048 = (128, 256, 512), tuple(2**k for k in range(7, 12))
# What SP must fail at: updates that are orthogonal as they stand move hidden layers alike at every
# width
SP_FAILS = (
    {name: READOUT | {HIDDEN} for name in OTHERS}
    | dict.fromkeys(("shampoo_svd", "muon", "muon_keller", *NORMALISED), READOUT)
    | {"shampoo": {("update", "readout.weight")}}
    | {"scion": set()}  # which makes of shapes what muP asks for
)  # its logits grow as width^1/2 only: too little for these widths


Batches = list[tuple[torch.Tensor, torch.Tensor]]


def first(data: Splits, batch_size: int) -> Batches:
    return list(itertools.islice(TensorData(data, batch_size=batch_size).train_dataloader(), 4))


@pytest.fixture(scope="module")
def batches() -> Batches:
    return first(digits(), 64)


@pytest.fixture(scope="module")
def small_batches() -> Batches:
    return first(digits(), 16)


def check(
    batches: Batches, optimizer: str, parametrization: Any = "mup", **options: Any
) -> pd.DataFrame:
    """The verdict on an MLP with two hidden layers.

    An option of the model or of the setup replaces ours.
    """
    constructor, tuned = (COMMON | OTHERS)[optimizer]
    defaults = {"widths": WIDTHS, "base_width": 128, "steps": 3, "seeds": range(5)}
    defaults |= {"zero_readout": True, "bias": True}
    arguments = defaults | tuned | options
    model = {
        key: arguments.pop(key) for key in ("input_mult", "output_mult", "zero_readout", "bias")
    }
    steps = batches[: arguments.pop("steps")]

    def build(width: int) -> nn.Module:
        return MLP(steps[0][0][0].numel(), 10, width, depth=2, **model)

    rows = coord_check(
        build, batches=steps, parametrization=parametrization, optimizer=constructor, **arguments
    )
    return verdict(rows)


def failures(table: pd.DataFrame) -> set[tuple[str, str]]:
    failed = table[table["verdict"] == "fail"]
    return set(zip(failed["kind"], failed["name"], strict=True))


def assert_passes(table: pd.DataFrame) -> None:
    """Nothing fails, and nearly all is judged."""
    missing = table[table["verdict"] != "pass"]
    assert failures(table) == set(), missing.to_string()
    assert len(missing) <= 0.1 * len(table), missing.to_string()


# each optimizer and each table once: the tables of one optimizer have the same statistics, as
# `test_the_table_of_statistics_does_not_depend_on_the_formulation` says
ONCE = {("sgd", "mup"), ("adam", "mulinear"), ("adamw", "cerebras"), ("adamw", "mup_table3")}


@pytest.mark.parametrize("bias", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("optimizer", "parametrization"),
    [
        pytest.param(o, p, marks=() if (o, p) in ONCE else pytest.mark.slow)
        for o in COMMON
        for p in ("mup", "mulinear", "cerebras", "mup_table3")
        if (o, p) != ("sgd", "cerebras")
    ],
)
def test_mup_passes(batches: Batches, optimizer: str, parametrization: str, bias: bool) -> None:
    options = {"lr": 0.02} if optimizer == "sgd" else {}
    table = check(batches, optimizer, parametrization, bias=bias, **options)
    assert_passes(table)
    of_tensors = 3 * (4 if optimizer == "adamw" else 3) + 3 * bias * (
        3 if optimizer == "adamw" else 2
    )
    # The model's logits, from the first update on; at t = 1 the readout alone has moved, unless
    # weight decay has moved all
    of_parts = 8 if optimizer == "adamw" else 5
    assert len(table) == 3 * of_tensors + 2 + of_parts


@pytest.mark.parametrize("optimizer", COMMON)
def test_sp_fails_and_the_hidden_and_output_layers_are_named(
    batches: Batches, optimizer: str
) -> None:
    table = check(batches, optimizer, "sp", seeds=range(3))
    step = "gradient_update" if optimizer == "adamw" else "update"
    assert {("output", "readout"), (step, "layers.1.weight"), (step, "readout.weight")} <= failures(
        table
    )
    failed = table[(table["verdict"] == "fail") & (table["kind"] == "output")]
    assert failed["t"].min() == 1
    assert "layers.0" not in set(failed["name"])


def test_a_power_of_width_in_weight_decay_is_seen_where_fan_in_grows(batches: Batches) -> None:
    assert_passes(check(batches, "adamw", weight_decay_mode=0.5))


def test_a_random_readout_passes_too(batches: Batches) -> None:
    assert_passes(check(batches, "adam", zero_readout=False))


def test_a_module_of_torch_with_torch_s_own_biases_passes_under_mup_and_fails_under_sp(
    batches: Batches,
) -> None:
    """The model of README.md: its readout's bias starts non-zero and does not shrink with width."""

    def build(width: int) -> nn.Module:
        layers = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, 10))

    check = partial(coord_check, build, WIDTHS, batches[:3], base_width=128, lr=0.01)
    table = verdict(check(parametrization="mup"))
    assert_passes(table)
    assert len(table) == 48 + 2 * 5  # parts at t = 1 and 2: 3 effective, 2 propagating
    named = {("output", "5"), ("update", "3.weight"), ("update", "5.weight")}
    assert named <= failures(verdict(check(parametrization="sp")))


def test_a_check_needs_neither_lightning_nor_hydra() -> None:
    code = (
        "import sys, torch; from mupl.training.coord_check import coord_check;"
        "build = lambda w: torch.nn.Linear(4, w);"
        "batch = (torch.ones(2, 4), torch.zeros(2).long());"
        "coord_check(build, [8], [batch], base_width=8, seeds=[0], lr=0.1);"
        "print(sorted({'lightning', 'hydra', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


CONTROLS: dict[str, tuple[dict[str, Any], dict[str, Any], set[tuple[str, str]]]] = {
    # what is wrong: cells of the table, options of training, what must be named
    "hidden lr not scaled": ({"layers.1.weight": {"lr": 1}}, {}, {("update", "layers.1.weight")}),
    "hidden init not scaled": (
        {"layers.1.weight": {"init": 1}},
        {},
        {("param", "layers.1.weight")},
    ),
    "output multiplier missing": (
        {"readout.weight": {"mult": 1}},
        {},
        {("update", "readout.weight"), ("param", "readout.weight")},
    ),
    "eps not scaled": (
        {"*": {"eps": 1}},
        {"eps": 1e-2},
        {("update", "layers.0.weight"), ("update", "layers.1.weight")},
    ),
    "weight decay not decoupled": (
        {},
        {"weight_decay_mode": "coupled"},
        {("decay", "layers.1.weight")},
    ),
    "a bias treated as hidden": (
        {},
        {"roles": {"layers.1.bias": "hidden"}},
        {("update", "layers.1.bias")},
    ),
}


@pytest.mark.parametrize("mistake", CONTROLS)
def test_a_mistake_is_caught_and_the_tensor_named(batches: Batches, mistake: str) -> None:
    cells, options, named = CONTROLS[mistake]
    optimizer = "adamw" if "weight_decay_mode" in options else "adam"
    table = check(batches, optimizer, get_parametrization("mup", cells), seeds=range(3), **options)
    assert named <= failures(table)
    # and nothing is named that is right: the inits of the tensors that were not touched
    untouched = {("param", name) for name in ("layers.0.weight", "layers.0.bias")}
    assert not untouched & failures(table[table["t"] == 0])


def test_the_table_of_statistics_does_not_depend_on_the_formulation(batches: Batches) -> None:
    """Effective weights: the same numbers whichever table realises muP."""

    def build(width: int) -> nn.Module:
        return MLP(64, 10, width, depth=2)

    def rows(name: str) -> pd.DataFrame:
        with default_dtype(torch.float64):
            return coord_check(
                build,
                [64, 128],
                batches[:3],
                base_width=32,
                seeds=[0],
                parametrization=name,
                optimizer="adamw",
                lr=0.01,
                eps=1e-3,
                weight_decay=0.1,
                statistics=["l1", "rms", "mean", "spectral"],
            )

    reference = rows("mup")
    for name in ("mup_table3", "mup_table9", "unit_init", "mulinear", "cerebras"):
        pd.testing.assert_frame_equal(rows(name), reference, rtol=1e-6, atol=1e-12)
    assert not rows("sp")["value"].equals(reference["value"])


# of each kind of update one is fast, the others are slow
KINDS_BY_ONE = ("lion", "shampoo", "muon", "adamh", "scion", "adam_spectral")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in KINDS_BY_ONE else pytest.mark.slow) for name in OTHERS],
)
def test_other_optimizers_pass_under_mup_and_fail_under_sp_where_they_must(
    name: str, small_batches: Batches
) -> None:
    assert_passes(check(small_batches, name))
    sp = failures(check(small_batches, name, "sp", seeds=range(2)))
    assert SP_FAILS[name] <= sp
    assert HIDDEN not in sp - SP_FAILS[name]


@pytest.mark.parametrize(
    "mistake", [{"layers.1.weight": {"lr": "m_in^1/2"}}, {"readout.weight": {"mult": 1}}]
)
def test_a_mistake_under_muon_is_caught_and_the_tensor_named(
    mistake: dict, small_batches: Batches
) -> None:
    table = check(small_batches, "muon", get_parametrization("mup", mistake), seeds=range(2))
    found = failures(table)
    assert ("update", *mistake) in found
    assert ("param", "layers.0.weight") not in found


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in OTHERS if name != "shampoo"]
)  # which takes an SVD of every side
def test_other_optimizers_pass_on_cifar_up_to_width_2048(real_data: Path, name: str) -> None:
    cifar = first(image_folder(real_data / "cifar10"), 16)
    assert_passes(check(cifar, name, widths=TO_2048, seeds=range(3)))
    assert SP_FAILS[name] <= failures(check(cifar, name, "sp", widths=TO_2048, seeds=range(1)))


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("optimizer", COMMON)
def test_mup_passes_on_cifar_up_to_width_2048(real_data: Path, optimizer: str, bias: bool) -> None:
    cifar = first(image_folder(real_data / "cifar10"), 64)
    assert_passes(check(cifar, optimizer, "mulinear", bias=bias, widths=TO_2048))
    sp = check(cifar, optimizer, "sp", bias=bias, widths=TO_2048)
    step = "gradient_update" if optimizer == "adamw" else "update"
    assert {("output", "readout"), (step, "layers.1.weight"), (step, "readout.weight")} <= failures(
        sp
    )


class Residual(nn.Module):
    """Blocks of one width, for checks against depth."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.readout = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(torch.relu(x))
        return self.readout(x)


TINY = [(torch.eye(4), torch.arange(4) % 2)]
IN_DEPTH = {"widths": [16], "base_width": 16, "depths": [2, 4], "base_depth": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_depth": None}, "base_depth: a check against depth needs the depth where lr was"),
        ({"widths": [16, 32]}, "widths: a check against depth has one width"),
        ({"widths": []}, "widths: needs at least one"),
        ({"depths": []}, "depths: needs at least one"),
        ({"seeds": []}, "seeds: needs at least one"),
        ({"batches": []}, "batches: needs at least one"),
    ],
)
def test_a_check_of_nothing_or_of_two_sizes_at_once_is_refused_before_any_training(
    options: dict[str, Any], message: str
) -> None:
    def build(width: int, depth: int) -> nn.Module:
        raise AssertionError("nothing is to be built")

    arguments: dict[str, Any] = {"batches": TINY, "lr": 0.01} | IN_DEPTH | options
    with pytest.raises(ConfigError, match=message):
        coord_check(build, **arguments)


def test_a_verdict_takes_its_axis_from_the_rows_and_says_what_is_wrong_with_another() -> None:
    rows = coord_check(Residual, batches=TINY, seeds=[0], lr=0.01, **IN_DEPTH)
    pd.testing.assert_frame_equal(verdict(rows), verdict(rows, along="depth"))
    with pytest.raises(ConfigError, match=r"width: .* needs at least two, or say along='depth'"):
        verdict(rows, along="width")
    with pytest.raises(ConfigError, match="along=seed: must be width or depth"):
        verdict(rows, along="seed")
    with pytest.raises(ConfigError, match="along=depth: must be width, as the rows have"):
        verdict(rows.drop(columns="depth"), along="depth")
    with pytest.raises(ConfigError, match="rows: there are none"):
        verdict(pd.DataFrame())


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_report_of_one_seed_says_so_and_prints_no_empty_columns(
    seeds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = [
        {"width": width, "seed": seed, "t": 1, "value": float(width + seed), "low": 0.0}
        for width in (64, 128)
        for seed in range(seeds)
    ]
    rows = pd.DataFrame(table).assign(kind="update", name="hidden", statistic="l1")
    rows = rows.assign(high=0.0, zero=False, parametrization="mup")
    results = pd.DataFrame({"status": ["completed"]})
    monkeypatch.setattr(report, "read_results", lambda folder, where: results)
    monkeypatch.setattr(report, "gather", lambda *arguments: rows)
    monkeypatch.setattr(report, "_plot_series", lambda check, folder: 0)
    assert report.coordinate_check(tmp_path) == 1
    shown = capsys.readouterr().out
    assert ("one seed: slopes are uncertain; use five (seed=0,1,2,3,4)" in shown) is (seeds == 1)
    assert ("ci_low" in shown) is (seeds == 2)
    assert "slope" in shown
    assert "nan" not in shown


def test_the_report_says_how_many_pass_in_each_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A series that lacks a key is one too, and a figure that fails changes no verdict."""
    table = [
        {"width": width, "seed": seed, "parametrization": name, "depth": depth, "value": value}
        for width in (64, 128)
        for seed in (0, 1)
        for name, depth, value in (("mup", 2, 1.0), ("sp", None, float(width)))
    ]
    rows = pd.DataFrame(table).assign(t=1, kind="update", name="hidden", statistic="l1")
    rows = rows.assign(low=0.0, high=0.0, zero=False)
    results = pd.DataFrame({"status": ["completed"]})
    monkeypatch.setattr(report, "read_results", lambda folder, where: results)
    monkeypatch.setattr(report, "gather", lambda *arguments: rows)
    monkeypatch.setattr(report.figures, "plot_coordinates", None)
    assert report.coordinate_check(tmp_path) == 1
    shown = capsys.readouterr().out
    assert "mup, depth=2: 1 of 1 tensors, kinds and steps pass\n" in shown
    assert "sp, depth=not set: 0 of 1 tensors, kinds and steps pass, 1 fail\n" in shown
    assert f"1 of 2 tensors, kinds and steps pass, 1 fail; {tmp_path / 'verdict.json'}\n" in shown
    assert shown.count("(the tables are complete): TypeError") == 2
