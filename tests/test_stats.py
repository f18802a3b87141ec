"""Statistics of tensors, the recorder of a training run, and its Lightning callback."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mupl.data import digits
from mupl.data.modules import TensorData
from mupl.errors import ConfigError
from mupl.initializers import default_dtype
from mupl.models import MLP
from mupl.nn.spectral_norm import spectral_norm
from mupl.nn.tensors import parameters
from mupl.parametrization.exponents import MODEL_OUTPUT
from mupl.parametrization.rules import Parametrization, get_parametrization
from mupl.parametrization.scales import Scale
from mupl.stats.callback import CoordinateStats
from mupl.stats.recorder import KINDS, Recorder
from mupl.stats.reductions import STATISTICS, TensorReductions, measure
from mupl.training.module import TrainingModule
from mupl.training.setup import Setup
from tests import resuming
from tests.loop import batches

FORMULATIONS = (
    "mup",
    "mup_table3",
    "mup_table9",
    "unit_init",
    "mulinear",
    "cerebras",
    "mean_field",
)
FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": lambda x: x.abs().mean(),
    "rms": lambda x: x.square().mean().sqrt(),
    "std": lambda x: x.std(correction=0),
    "mean": lambda x: x.mean(),
    "frobenius": lambda x: torch.linalg.matrix_norm(x.flatten(1)),
    "spectral": lambda x: torch.linalg.matrix_norm(x.flatten(1), ord=2),
    "rms_to_rms": lambda x: (
        torch.linalg.matrix_norm(x.flatten(1), ord=2) * math.sqrt(x[0].numel() / len(x))
    ),
    "stable_rank": lambda x: x.square().sum() / torch.linalg.matrix_norm(x.flatten(1), ord=2) ** 2,
}
MATRIX_STATISTICS = [name for name, statistic in STATISTICS.items() if statistic.of_matrices]


# --- statistics ---
# ------------------


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("shape", [(7,), (5, 9), (400, 500), (3, 4, 2, 2)])
def test_a_statistic_is_its_formula_and_scales_as_it_says(
    name: str, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.3
    x[0] += 100.0  # a gap below the largest singular value, so that a Krylov space is exact too
    found, of_multiple = (measure(TensorReductions(c * x), [name]) for c in (1, -3))
    if STATISTICS[name].of_matrices and len(shape) == 1:
        assert found == {}
        return
    torch.testing.assert_close(found[name], FORMULAS[name](x), rtol=1e-10, atol=0)
    torch.testing.assert_close(
        of_multiple[name], found[name] * STATISTICS[name].scale(-3), rtol=1e-10, atol=0
    )


def test_members_of_a_stack_are_measured_one_by_one() -> None:
    stack = torch.randn(
        3, 190, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    together = measure(TensorReductions(stack, members=1), STATISTICS)
    for i, x in enumerate(stack):
        for name, value in measure(TensorReductions(x), STATISTICS).items():
            torch.testing.assert_close(together[name][i], value, rtol=1e-10, atol=0)


@pytest.mark.parametrize("size", [5, 300])
def test_a_zero_matrix_gives_zeros(size: int) -> None:
    assert {
        name: float(v)
        for name, v in measure(TensorReductions(torch.zeros(size, size)), STATISTICS).items()
    } == (dict.fromkeys(STATISTICS, 0.0))


def test_equal_numbers_have_their_mean_in_float32() -> None:
    """As in Adam's first update; adding 4 million of them one by one is wrong by 2 %."""
    x = torch.full((2048, 2048), 1e-3)
    for name in ("l1", "rms", "mean"):
        assert float(measure(TensorReductions(x), [name])[name]) == pytest.approx(1e-3, rel=1e-4)


def test_half_precision_is_measured_in_float32() -> None:
    x = torch.full((300, 300), 300.0, dtype=torch.float16)  # its squares overflow
    assert float(measure(TensorReductions(x), ["rms"])["rms"]) == pytest.approx(300, rel=1e-4)


# --- the spectral norm
# ----------------------------------------------------------------------------------------------


def relative_error(x: Tensor, **options: Any) -> float:
    return abs(
        float(spectral_norm(x, **options)) / float(torch.linalg.matrix_norm(x.double(), ord=2)) - 1
    )


@pytest.mark.parametrize(
    "shape", [(512, 2048), (2048, 512), (10, 784), (64, 64), (300, 300), (129, 3072), (7, 1)]
)
def test_the_spectral_norm_of_gaussian_matrices(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    assert max(relative_error(torch.randn(shape, generator=generator)) for _ in range(2)) < 1e-3


@pytest.fixture(scope="module")
def digit_batches() -> list[tuple[Tensor, Tensor]]:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.data))[: 20 * 64].reshape(20, 64)
    x, y = torch.tensor(data.data / 8 - 1, dtype=torch.float32), torch.tensor(data.target)
    return [(x[i], y[i]) for i in order]


@pytest.mark.parametrize("lr", [1e-3, 1e-2])
def test_the_spectral_norm_of_updates_gradients_and_changes(lr: float, digit_batches: list) -> None:
    torch.manual_seed(0)
    model = MLP(64, 10, [300, 200], depth=2)
    w = model.layers[1].weight
    optimizer = torch.optim.Adam(model.parameters(), lr)
    first = w.detach().clone()
    for t, (x, y) in enumerate(digit_batches):
        before = w.detach().clone()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if t in (0, 1, 5, 19):
            after = w.detach()
            for kind, matrix in (
                ("update", after - before),
                ("grad", w.grad),
                ("change", after - first),
            ):
                assert relative_error(matrix, iterations=KINDS[kind]) < 1e-3, (t, kind)
            assert relative_error(after) < 1e-3


def test_too_few_iterations_are_noticed() -> None:
    """Negative control of the accuracy tests."""
    assert (
        relative_error(
            torch.randn(512, 2048, generator=torch.Generator().manual_seed(0)), iterations=5
        )
        > 1e-3
    )


@pytest.mark.parametrize("rank", [1, 5])
def test_the_spectral_norm_of_low_rank(rank: int) -> None:
    """Where the Krylov space ends before the iterations do."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, rank, generator=generator) @ torch.randn(rank, 200, generator=generator)
    assert relative_error(x) < 1e-5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_matrix_has_the_spectral_norm_nan(value: float) -> None:
    assert spectral_norm(torch.full((300, 300), value)).isnan()


def test_stored_precision_settings_do_not_matter_and_stay() -> None:
    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    expected = spectral_norm(x)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert spectral_norm(x) == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_an_orthogonal_update_has_singular_values_1() -> None:
    x = torch.linalg.qr(torch.randn(300, 150, dtype=torch.float64))[0].mT  # fan_out 150, fan_in 300
    found = {
        name: float(value)
        for name, value in measure(TensorReductions(x), MATRIX_STATISTICS).items()
    }
    assert found == pytest.approx(
        {"frobenius": math.sqrt(150), "spectral": 1, "rms_to_rms": math.sqrt(2), "stable_rank": 150}
    )


def test_the_spectral_norm_of_an_adam_update_grows_like_sqrt_fan_in_fan_out(
    digit_batches: list,
) -> None:
    x, y = digit_batches[0]
    sizes, norms = [], []
    for width in (64, 128, 256, 512):
        torch.manual_seed(0)
        model = MLP(64, 10, [width, 2 * width], depth=2)
        with Recorder(
            model, kinds=["update"], statistics=["spectral"], parameters=["layers.1.weight"]
        ) as recorder:
            train(model, torch.optim.Adam(model.parameters(), 1e-3), [(x, y)], recorder)
        sizes.append(math.sqrt(width * 2 * width))
        norms.append(recorder.rows[0]["value"])
    slope = np.polyfit(np.log(sizes), np.log(norms), 1)[0]
    assert slope == pytest.approx(1, abs=0.1)


# --- the recorder ---
# ------------------


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[tuple[Tensor, Tensor]],
    recorder: Recorder,
) -> None:
    for x, y in batches:
        recorder.begin_step()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        recorder.end_step()


def small_mlp(width: int) -> MLP:
    return MLP(6, 3, width, depth=2)


def foreign_mlp(width: int) -> nn.Module:
    """The same network of other modules, drawn like `small_mlp` at the base width."""
    layers = [nn.Linear(6, width), nn.Linear(width, width), nn.Linear(width, 3)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.ReLU(inplace=True), layers[1], nn.ReLU(), layers[2])


def built(
    parametrization: str | Parametrization,
    optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW,
    build: Callable[[int], nn.Module] = small_mlp,
) -> tuple[nn.Module, dict[str, Scale], torch.optim.Optimizer]:
    """At four times the base width, where no formulation is trivial.

    eps and weight decay are so large that they matter.
    """
    tuned = {"lr": 0.02, "eps": 1e-3, "weight_decay": 0.1}
    with default_dtype(torch.float64):
        setup = Setup(
            build, 32, base_width=8, parametrization=parametrization, optimizer=optimizer, **tuned
        )
    return setup.model, setup.scales, setup.optimizer()


def recorded(
    parametrization: str | Parametrization,
    build: Callable[[int], nn.Module] = small_mlp,
    **options: Any,
) -> pd.DataFrame:
    model, numbers, optimizer = built(parametrization, build=build)
    options = {"kinds": KINDS, "statistics": STATISTICS, "probe": batches(3)[2][0]} | options
    with Recorder(model, numbers, **options) as recorder:
        train(model, optimizer, batches(3), recorder)
    return recorder.frame()


def largest_difference(a: pd.DataFrame, b: pd.DataFrame) -> float:
    """Relative, but for means, which may cancel: to the l1 of the same tensor."""
    keys = ["t", "kind", "name"]
    assert a[[*keys, "statistic"]].equals(b[[*keys, "statistic"]])
    l1 = a[a["statistic"] == "l1"].set_index(keys)["value"]
    size = (
        a["value"]
        .abs()
        .where(a["statistic"] != "mean", l1.loc[pd.MultiIndex.from_frame(a[keys])].to_numpy())
    )
    return float(((a["value"] - b["value"]).abs() / size).max())


@pytest.fixture(scope="module")
def mup_table() -> pd.DataFrame:
    return recorded("mup")


@pytest.mark.parametrize("name", FORMULATIONS)
def test_every_formulation_of_mup_gives_the_same_table(name: str, mup_table: pd.DataFrame) -> None:
    assert largest_difference(mup_table, recorded(name)) < 1e-9
    assert (mup_table.loc[mup_table["kind"] == "param", "value"] != 0).any()


@pytest.mark.parametrize(
    ("glob", "cells"),
    [
        ("layers.1.weight", {"lr": 1}),
        ("layers.1.weight", {"eps": 1}),
        ("readout.*", {"mult": 1}),
        ("*.bias", {"wd": 0}),
    ],
)
def test_another_parametrization_gives_another_table(
    glob: str, cells: dict, mup_table: pd.DataFrame
) -> None:
    """Negative control of the test above."""
    other = get_parametrization("mup").override({glob: cells})
    assert largest_difference(mup_table, recorded(other)) > 1e-6


@pytest.mark.parametrize("name", ["mup_table3", "mup_table9", "unit_init", "mulinear"])
def test_a_foreign_module_gives_the_same_rows(name: str, mup_table: pd.DataFrame) -> None:
    """Its multipliers are put in by torch.nn.utils.parametrize; it activates in place."""
    table = recorded(name, build=foreign_mlp)
    ours = {"0": "layers.0", "2": "layers.1", "4": "readout", MODEL_OUTPUT: MODEL_OUTPUT}
    table["name"] = [".".join([ours[n.split(".")[0]], *n.split(".")[1:]]) for n in table["name"]]
    assert largest_difference(mup_table, table) < 1e-9


def rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


@pytest.mark.parametrize("name", ["mulinear", "unit_init"])
def test_values_are_those_of_a_plain_network_with_the_effective_weights(name: str) -> None:
    """Outputs, weights and, by autograd, gradients; updates, changes and parts by subtraction."""
    model, numbers, optimizer = built(name)
    plain, probe = foreign_mlp(32).double(), batches(3)[2][0]
    inner = dict(zip(numbers, plain.parameters(), strict=True))

    def effective() -> dict[str, Tensor]:
        return {n: numbers[n].mult * w.detach() for n, w in parameters(model, numbers).items()}

    def outputs(x: Tensor) -> dict[str, Tensor]:
        for n, w in effective().items():
            inner[n].data.copy_(w)
        first = plain[0](x)
        second = plain[2](first.relu())
        return {"layers.0": first, "layers.1": second, "readout": plain[4](second.relu())}

    def inputs(t: int) -> dict[str, Tensor]:
        first, second, _ = (x.relu() for x in probes[t].values())
        return {"layers.0": probe, "layers.1": first, "readout": second}

    def products(change: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: x @ change[f"{n}.weight"].T for n, x in inputs.items()}

    recorder = Recorder(model, numbers, kinds=KINDS, statistics=STATISTICS, probe=probe)
    expected: dict[tuple[int, str], dict[str, Tensor]] = {}
    alignments: dict[tuple[int, str, str, str], float] = {}
    weights, probes = [effective()], [outputs(probe)]
    for t, (x, y) in enumerate(batches(3)):
        expected[t, "param"], expected[t, "output"] = weights[t], outputs(x)
        logits = expected[t, "output"]["readout"]
        expected[t, "logits"] = {MODEL_OUTPUT: logits}
        loss = F.cross_entropy(logits, y)
        for kind, tensors in (("output_grad", expected[t, "output"]), ("grad", inner)):
            gradients = torch.autograd.grad(loss, list(tensors.values()), retain_graph=True)
            expected[t, kind] = dict(zip(tensors, gradients, strict=True))
        train(model, optimizer, [(x, y)], recorder)
        weights.append(effective())
        probes.append(outputs(probe))
        for prefix, values in (("", weights), ("output_", probes)):
            expected[t, f"{prefix}update"] = {n: values[t + 1][n] - values[t][n] for n in values[0]}
            if t > 0:
                expected[t, f"{prefix}change"] = {n: values[t][n] - values[0][n] for n in values[0]}
        x, x_0 = inputs(t), inputs(0)
        expected[t, "action"] = products(expected[t, "update"], x)
        if t > 0:
            change = expected[t, "change"]
            of_input = {n: x[n] - x_0[n] for n in x}
            parts = expected[t, "effective"] = products(change, x)
            expected[t, "propagating"] = products(weights[0], of_input)
            for n, part in parts.items():
                sizes = rms(change[f"{n}.weight"]) * rms(x[n])
                alignments[t, "alignment", n, "l1"] = (rms(part) / sizes).item()
    found = {(r["t"], r["kind"], r["name"], r["statistic"]): r["value"] for r in recorder.rows}
    wanted = alignments | {
        (t, kind, n, s): float(v)
        for (t, kind), tensors in expected.items()
        for n, x in tensors.items()
        for s, v in measure(TensorReductions(x), STATISTICS).items()
    }
    assert found == pytest.approx(wanted, rel=1e-8, abs=1e-12)


def test_the_default_is_l1_of_outputs_weights_and_updates() -> None:
    model, numbers, optimizer = built("mup")
    with Recorder(model, numbers, columns={"width": 32}) as recorder:
        train(model, optimizer, batches(3), recorder)
    table = recorder.frame()
    assert list(table.columns) == ["width", "t", "kind", "name", "statistic", "value"]
    assert set(table["statistic"]) == {"l1"}
    steps = {kind: sorted(set(rows["t"])) for kind, rows in table.groupby("kind")}
    assert steps == {"output": [0, 1, 2], "param": [0, 1, 2], "update": [0, 1, 2]}
    assert set(table.loc[table["kind"] == "output", "name"]) == {"layers.0", "layers.1", "readout"}
    assert set(table.loc[table["kind"] == "update", "name"]) == set(numbers)


def test_chosen_rows_are_those_of_a_full_record(mup_table: pd.DataFrame) -> None:
    options = {
        "kinds": ["update", "output_update", "grad"],
        "statistics": ["spectral", "l1"],
        "steps": [1, 2],
    }
    table = recorded("mup", parameters=["*.1.weight"], modules=["read*"], **options)
    keys = ["t", "kind", "name", "statistic"]
    values = mup_table.set_index(keys)["value"]
    assert set(table["name"]) == {"layers.1.weight", "readout"}
    assert set(zip(table["t"], table["kind"], strict=True)) == {
        (t, kind) for t in (1, 2) for kind in options["kinds"]
    }
    assert table["value"].to_numpy() == pytest.approx(
        values.loc[pd.MultiIndex.from_frame(table[keys])].to_numpy()
    )
    assert set(recorded("mup", kinds=["param"], steps=2)["t"]) == {0, 2}


def test_of_a_module_called_twice_the_last_call_counts() -> None:
    layer = nn.Linear(4, 4, bias=False)
    recorder = Recorder(layer, kinds=["output"], steps=[0])
    recorder.begin_step()
    layer(torch.ones(2, 4))
    last = layer(torch.full((2, 4), 3.0))
    recorder.end_step()
    assert [row["value"] for row in recorder.rows] == pytest.approx(
        [float(last.detach().abs().mean())]
    )


def test_the_gradient_of_a_module_called_twice_is_that_of_the_last_call() -> None:
    layer = nn.Linear(4, 4, bias=False)
    recorder = Recorder(layer, kinds=["output_grad"])
    recorder.begin_step()
    (2 * layer(layer(torch.ones(2, 4)))).sum().backward()
    recorder.end_step()
    assert [row["value"] for row in recorder.rows] == [2.0]


class Calls(TorchDispatchMode):
    """Names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_step_that_is_not_recorded_costs_nothing() -> None:
    operators = []
    for steps in ([], [0, 9]):
        model, numbers, optimizer = built("mup")
        recorder = Recorder(
            model, numbers, kinds=["output", "param", "update", "grad"], steps=steps
        )
        train(model, optimizer, batches(2), recorder)
        with Calls() as calls:
            train(model, optimizer, batches(1), recorder)
        operators.append(calls.names)
    assert operators[0] == operators[1]
    with Calls() as calls:
        for x, y in batches(1):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert sorted(operators[1]) == sorted(calls.names)


def test_a_recorded_step_has_one_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    transfers: list[torch.Size] = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: transfers.append(self.shape) or tolist(self))
    monkeypatch.setattr("mupl.nn.spectral_norm.BLOCK", 2)
    model, numbers, optimizer = built("mup", torch.optim.SGD)
    recorder = Recorder(model, numbers, kinds=KINDS, statistics=STATISTICS, probe=batches(3)[2][0])
    with Calls() as calls:
        train(model, optimizer, batches(2), recorder)
    assert len(transfers) == 2
    assert sum(size.numel() for size in transfers) == len(recorder.rows)
    assert not {"_local_scalar_dense", "item", "is_nonzero"} & set(calls.names)


def test_closing_removes_the_hooks() -> None:
    model = small_mlp(8)
    with Recorder(model):
        assert model.readout._forward_hooks
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ["outputs"]}, r"recorder\.kinds=outputs: must be of output, param"),
        ({"statistics": ["l3"]}, r"recorder\.statistics=l3: must be of l1, rms"),
        (
            {"parameters": ["head.*"]},
            r"recorder\.parameters: 'head\.\*' matches none of layers\.0\.weight",
        ),
        ({"modules": ["head"]}, r"recorder\.modules: 'head' matches none of"),
        ({"steps": 0}, r"recorder\.steps=0"),
        ({"steps": -1}, r"recorder\.steps=-1: must be a whole number >= 1"),
    ],
)
def test_bad_arguments_are_named(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recorder(small_mlp(8), **options)


def test_what_a_step_lacks_is_named() -> None:
    model = small_mlp(8)
    with pytest.raises(ConfigError, match="needs a probe batch"):
        Recorder(model, kinds=["output_change"]).begin_step()
    recorder = Recorder(model, kinds=["grad"])
    recorder.begin_step()
    with pytest.raises(ConfigError, match="call end_step before zero_grad"):
        recorder.end_step()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_table_is_written_whole(suffix: str, tmp_path: Path, mup_table: pd.DataFrame) -> None:
    model, numbers, optimizer = built("mup")
    with Recorder(model, numbers) as recorder:
        train(model, optimizer, batches(1), recorder)
    recorder.write(tmp_path / f"rows.{suffix}")
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet}[suffix](tmp_path / f"rows.{suffix}")
    pd.testing.assert_frame_equal(read, recorder.frame(), check_dtype=False)
    assert [file.name for file in tmp_path.iterdir()] == [f"rows.{suffix}"]
    with pytest.raises(ConfigError, match=r"file=rows\.txt"):
        recorder.write(tmp_path / "rows.txt")


# --- the callback ---
# ------------------


def digits_data() -> TensorData:
    return TensorData(digits(), batch_size=32)


def digits_module() -> TrainingModule:
    setup = Setup(
        lambda w: MLP(64, 10, w, depth=1), 32, base_width=16, lr=0.01, parametrization="mulinear"
    )
    return TrainingModule(setup)


def trainer(callback: CoordinateStats, folder: Path, **options: Any) -> Trainer:
    limits = {"max_steps": 4, "limit_val_batches": 0, "log_every_n_steps": 1} | options
    return resuming.trainer(
        logger=CSVLogger(folder, name="", version=""), callbacks=[callback], **limits
    )


def test_the_callback_logs_and_writes_what_a_plain_loop_records(tmp_path: Path) -> None:
    kinds, statistics = ["output", "param", "update", "output_change"], ["l1", "spectral"]
    options: dict[str, Any] = {
        "kinds": kinds,
        "statistics": statistics,
        "steps": [0, 1, 3],
        "columns": {"seed": 0},
    }
    trainer(CoordinateStats(**options), tmp_path).fit(digits_module(), datamodule=digits_data())
    table = pd.read_csv(tmp_path / "coordinates.csv")

    module = digits_module()
    plain = list(itertools.islice(digits_data().train_dataloader(), 4))
    setup = module.training_setup
    optimizer = setup.optimizer()
    with Recorder(setup.model, setup.scales, probe=plain[0][0], **options) as recorder:
        train(setup.model, optimizer, plain, recorder)
    pd.testing.assert_frame_equal(table, recorder.frame(), rtol=1e-5)

    metrics = pd.read_csv(tmp_path / "metrics.csv")
    logged = metrics.set_index("step")["output_l1/layers.0"].dropna()
    expected = table.query(
        "kind == 'output' and name == 'layers.0' and statistic == 'l1'"
    ).set_index("t")["value"]
    assert logged.to_dict() == pytest.approx(expected.to_dict())
    assert "update_spectral/readout.weight" in metrics.columns


def test_an_update_of_accumulated_gradients_is_one_step(tmp_path: Path) -> None:
    callback = CoordinateStats(folder=tmp_path / "here", file="rows.parquet")
    trainer(callback, tmp_path, max_steps=2, accumulate_grad_batches=3).fit(
        digits_module(), datamodule=digits_data()
    )
    table = pd.read_parquet(tmp_path / "here" / "rows.parquet")
    assert sorted(set(table.loc[table["kind"] == "update", "t"])) == [0, 1]
    assert not table.duplicated(["t", "kind", "name", "statistic"]).any()


class Other(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_another_lightning_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Other has not both"):
        trainer(CoordinateStats(), tmp_path).fit(Other(), digits_data().train_dataloader())


def test_a_prediction_needs_a_module_that_knows_it(tmp_path: Path) -> None:
    class Bare(Other):
        def __init__(self) -> None:
            super().__init__()
            self.model = self.layer
            self.scales: dict[str, Scale] = {}

    used = trainer(CoordinateStats(predict=True), tmp_path)
    with pytest.raises(ConfigError, match=r"coordinates\.predict: needs a module that knows"):
        used.fit(Bare(), digits_data().train_dataloader())


def test_the_parts_of_an_update_are_those_of_the_lr_that_made_it() -> None:
    """A scheduler, such as Lightning's, may have changed lr by the time the step ends."""
    layer = nn.Linear(8, 8, dtype=torch.float64)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.5)
    before = layer.weight.detach().clone()
    kinds = ("update", "gradient_update", "decay")
    with Recorder(
        layer, kinds=kinds, statistics=("l1",), parameters=("weight",), optimizer=optimizer
    ) as recorder:
        recorder.begin_step()
        for parameter in layer.parameters():
            parameter.grad = torch.zeros_like(parameter)  # so the whole update is weight decay
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.02
        recorder.end_step()
    values = {row["kind"]: row["value"] for row in recorder.rows}
    assert values["gradient_update"] == 0
    assert values["decay"] == pytest.approx(0.05 * before.abs().mean().item())
    assert values["update"] == pytest.approx(values["decay"])
