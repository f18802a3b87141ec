"""Figures of papers made again: their configs, kept tables, numbers, images and the gallery."""

import math
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from mupl.cli import main
from mupl.errors import ConfigError
from mupl.models import MLP
from mupl.parametrization.tables import TABLES
from mupl.reproduce.compare import compare
from mupl.reproduce.entries import Expectation, Size, entry_names, parse_entry, read_entry
from mupl.reproduce.figure import How, make, outcomes
from mupl.reproduce.gallery import PAGE, gallery
from mupl.reproduce.images import DIFFERS, SAME, draw, same
from mupl.reproduce.views import VIEWS, transfer_numbers
from mupl.training.coord_check import coord_check
from tests.commands import IGNORED, ROOT, environment

pytestmark = IGNORED

NAMES = entry_names()
DOCS = ROOT / "docs"
IMAGE = re.compile(r"\]\(([^)]+\.png)\)")
# The head of a page (see docs/reading_a_report.md), and a table's own report (see docs/results)
OTHERS = {
    "docs/figures/report.png",
    "docs/figures/gpt_397m.png",
    "docs/figures/per_module_carried.png",
    "docs/figures/shampoo_roots.png",
    "docs/figures/hyperball.png",
    "docs/figures/optimizers.png",
    "docs/figures/soap_mnist.png",
    "docs/figures/soap_text.png",
    "docs/figures/weight_decay_gpt.png",
}
# Sizes of figures whose tables tell no parametrizations apart, as they say
NOT_TOLD_APART = {("lr_depth", "tiny"), ("embedding_lr", "tiny")}
ONE_PARAMETRIZATION = {"unit_scale", "base_width"}  # there is nothing to trade


def kept() -> list[tuple[str, str]]:
    """Figures and sizes of which a table is kept."""
    found = []
    for name in NAMES:
        for size, one in read_entry(name).sizes.items():
            if one.kept_table():
                found.append((name, size))
    return found


def numbers_of(name: str, one: Size) -> pd.DataFrame:
    """The numbers of the table that is kept."""
    file = one.kept_table()
    assert file is not None
    return VIEWS[read_entry(name).view].numbers(pd.read_csv(file))


def traded(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers of parametrizations (or of optimizers, if there is one) under each other's names."""
    columns = [c for c in ("parametrization", "optimizer", "name") if c in table]
    column = next(c for c in columns if table[c].nunique() > 1)
    names = sorted(table[column].unique())
    others = dict(zip(names, names[1:] + names[:1], strict=True))
    return table.assign(**{column: table[column].map(others)})


# --- configs


@pytest.mark.parametrize("name", NAMES)
def test_a_config_says_what_is_needed(name: str) -> None:
    entry = read_entry(name)
    assert entry.view in VIEWS
    for size in entry.sizes.values():
        assert size.commands
        assert size.cost
        assert all(image.startswith("docs/") for image in size.images)
        for expectation in size.expect:
            assert expectation.low > float("-inf") or expectation.high < float("inf")


def test_every_tiny_figure_is_there_to_be_run() -> None:
    paper_only = {name for name in NAMES if "tiny" not in read_entry(name).sizes}
    assert all(name.startswith("lr_") for name in paper_only)  # data or models that need a download
    assert len(NAMES) - len(paper_only) >= 20


def test_the_list_shows_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "--list"])
    assert not end.value.code
    shown = capsys.readouterr().out
    assert re.findall(r"(?m)^(\w+): ", shown) == NAMES


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sizes": {"huge": {}}}, "sizes.huge: must be one of tiny, paper"),
        ({}, "sizes: must be one or more of tiny, paper"),
        ({"sizes": {"tiny": {"comands": []}}}, "comands"),
        ({"sizes": {"tiny": {"cost": "1 s", "expect": [{"number": "drift"}]}}}, "says"),
        ({"sizes": {"tiny": {"cost": "1 s"}}, "abuot": "x"}, "abuot"),
    ],
)
def test_a_config_that_is_wrong_is_an_error(config: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_entry("mine", config)


# --- numbers


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param(*one, marks=pytest.mark.slow if one == ("ablation", "tiny") else ())
        for one in kept()
    ],
)
def test_numbers_of_a_kept_table_are_as_expected_and_some_miss_where_parametrizations_are_traded(
    name: str, size: str
) -> None:
    one = read_entry(name).sizes[size]
    numbers = numbers_of(name, one)
    found = compare(one.expect, numbers)
    assert found["passes"].all(), found
    if (name, size) not in NOT_TOLD_APART and name not in ONE_PARAMETRIZATION:
        assert not compare(one.expect, traded(numbers))["passes"].all()


def test_what_is_not_told_apart_expects_no_numbers() -> None:
    for name in NAMES:
        for size, one in read_entry(name).sizes.items():
            assert bool(one.expect) == ((name, size) not in NOT_TOLD_APART), (name, size)


def test_a_number_whose_rows_are_missing_does_not_pass() -> None:
    numbers = pd.DataFrame({"parametrization": ["sp"], "drift": [0.0]})
    missing = Expectation("muP", "drift", "parametrization == 'mup'")
    assert not compare([missing], numbers)["passes"].any()


def grid(octaves: dict[int, float]) -> pd.DataFrame:
    """Results over lr = 2^-3 to 2^3 whose optimum is at these octaves, by width."""
    rows = []
    for width, best in octaves.items():
        for octave in range(-3, 4):
            rows.append((width, 2.0**octave, 1 + (octave - best) ** 2))
    table = pd.DataFrame(rows, columns=["width", "lr", "val_loss"])
    return table.assign(parametrization="mup", optimizer="adam", seed=0, status="completed")


# (optima by width, number) -> the least and the most that it may be
BOUNDS = [
    ({8: 0, 16: 0, 32: 0}, "drift", (0, 0)),
    ({8: 0, 16: -2, 32: -5}, "drift", (-math.inf, -1.5)),  # or less, as 32 may be lower still
    ({8: 5, 16: 2, 32: 0}, "drift", (-math.inf, -1.5)),
    ({8: 0, 16: 2, 32: 5}, "drift", (1.5, math.inf)),
    ({8: 0, 16: 5, 32: 0}, "drift", (0, 0)),  # the middle one has no part in a line's slope
    ({8: 5, 16: 0, 32: 5}, "drift", (-math.inf, math.inf)),
    ({8: 0, 16: -2, 32: -5}, "octave", (-2, -2)),  # a median
    ({8: 0, 16: 5, 32: 5}, "octave", (3, math.inf)),
    ({8: 0, 16: -2, 32: -5}, "worst_regret", (21, math.inf)),  # 26 at lr 1, 5 at 1/8
    ({8: -5, 16: -2, 32: 0}, "worst_regret", (0, math.inf)),  # of another lr than that of 8
    ({8: 0, 16: 0, 32: 5}, "loss", (1, 1)),
]


@pytest.mark.parametrize(("octaves", "number", "ends"), BOUNDS)
def test_a_number_of_optima_at_the_edge_of_the_grid_has_bounds(
    octaves: dict[int, float], number: str, ends: tuple[float, float]
) -> None:
    found = transfer_numbers(grid(octaves)).iloc[0]
    bounds = (found[f"{number}_least"], found[f"{number}_most"])
    assert bounds == pytest.approx(ends, abs=1e-9)


def test_a_number_passes_where_all_that_it_may_be_is_in_the_range(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    numbers = transfer_numbers(grid({8: 0, 16: -2, 32: -5}))
    row = "parametrization == 'mup'"
    expected = [
        Expectation("it falls", "drift", row, high=-0.5),
        Expectation("it falls by so much", "drift", row, low=-2, high=-0.5),
        Expectation("twice", "drift", row, minus=row, low=-1, high=1),
        Expectation("no bound is known", "fit_error", row, low=0),
        Expectation("all sizes", "octave", row, low=-2.1, high=-1.9),
    ]
    found = compare(expected, numbers)
    assert found["passes"].tolist() == [True, False, False, False, True]
    assert found["known"].tolist() == ["or less", "or less", "not known", "not known", ""]
    size = Size(commands=(), cost="", expect=tuple(expected))
    entry = replace(read_entry("lr_mlp"), sizes={"tiny": size})
    (tmp_path / "lr_mlp_tiny").mkdir()
    grid({8: 0, 16: -2, 32: -5}).to_csv(tmp_path / "lr_mlp_tiny" / "results.csv", index=False)
    assert not make(entry, How(tmp_path, redraw=False))
    said = capsys.readouterr().out
    assert (
        "it falls by so much: or less, as the optimum at 32 lies at the edge of the grid; values "
        "beyond it, said after the figure's name as KEY=VALUES, would tell\n"
    ) in said
    assert "2 of 5 numbers are as expected" in said


def test_a_number_of_several_rows_says_how_they_become_one() -> None:
    numbers = pd.DataFrame({"parametrization": ["sp", "sp"], "drift": [0.0, 2.0]})
    where = "parametrization == 'sp'"
    with pytest.raises(ConfigError, match="2 rows; say of: max"):
        compare([Expectation("SP", "drift", where)], numbers)
    found = compare([Expectation("SP", "drift", where, of="max")], numbers)
    assert found["measured"].tolist() == [2]


# --- wrong rules


def test_the_instructive_example_misses_its_numbers_with_wrong_rules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = runpy.run_path(str(ROOT / "scripts/teaching.py"))
    entry = read_entry("two_vectors")
    size = entry.sizes["tiny"]

    def passes() -> bool:
        rows = []
        for name in ("sp", "mup"):
            for n in (2**8, 2**10, 2**12, 2**14):
                rows += [script["train"](n, name, seed) for seed in range(5)]
        return bool(outcomes(entry, size, pd.concat(rows))["passes"].all())

    assert passes()
    monkeypatch.setitem(TABLES, "mup", TABLES["sp"])
    assert not passes()


def build(width: int) -> nn.Module:
    return MLP(64, 10, width, depth=2, bias=False, zero_readout=True, output_mult=32)


def check(parametrization: str) -> pd.DataFrame:
    """The rows of a small coordinate check under SGD, with the columns of the sweep's."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(3):
        x = torch.randn(64, 64, generator=generator)
        batches.append((x, x[:, :10].argmax(1)))
    rows = coord_check(
        build,
        [64, 128, 256],
        batches,
        base_width=64,
        seeds=range(3),
        parametrization=parametrization,
        optimizer="sgd",
        lr=0.01,
    )
    return rows.assign(**{"parametrization": parametrization, "model.bias": False})


def test_a_coordinate_check_misses_its_numbers_with_wrong_rules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = read_entry("coord_check_sgd")

    def failed() -> list[str]:
        table = pd.concat([check("sp"), check("mulinear")], ignore_index=True)
        found = outcomes(entry, entry.sizes["tiny"], table)
        return found.loc[~found["passes"], "says"].tolist()

    assert failed() == []
    monkeypatch.setitem(TABLES, "mulinear", TABLES["sp"])
    assert failed() == ["mulinear: tensors, kinds and steps that fail"]


# --- images and the gallery


def test_every_image_is_listed_once() -> None:
    listed = []
    for name in NAMES:
        for size in read_entry(name).sizes.values():
            listed += size.images
    assert len(set(listed)) == len(listed)
    there = {str(file.relative_to(ROOT)) for file in DOCS.rglob("*.png")}
    assert there - set(listed) == OTHERS


def test_every_image_that_docs_show_is_there() -> None:
    for page in (ROOT / "README.md", *DOCS.glob("*.md")):
        for path in IMAGE.findall(page.read_text()):
            assert (page.parent / path).exists(), (page, path)


def test_a_size_whose_cost_was_measured_is_not_said_to_be_unmeasured() -> None:
    text = PAGE.read_text()
    assert "Not measured" not in text
    assert "Its table is not kept here" in text


@pytest.mark.slow
def test_the_gallery_is_not_stale() -> None:
    made = gallery()
    assert PAGE.read_text() == made, "python scripts/reproduce.py --gallery"


def test_another_table_is_another_image(tmp_path: Path) -> None:
    results = pd.read_csv(DOCS / "transfer" / "scheduler_width.csv")
    draw("transfer", results, tmp_path / "one.png")
    draw("transfer", results, tmp_path / "again.png")
    assert same(tmp_path / "one.png", tmp_path / "again.png") == SAME
    losses = results["val_loss"] + 0.1 * results["width"].rank()
    draw("transfer", results.assign(val_loss=losses), tmp_path / "other.png")
    assert same(tmp_path / "one.png", tmp_path / "other.png") == DIFFERS
    first = results["parametrization"].iloc[0]
    draw("transfer", results[results["parametrization"] == first], tmp_path / "fewer.png")
    assert same(tmp_path / "one.png", tmp_path / "fewer.png") == DIFFERS


def test_figures_in_one_folder_have_each_a_table_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def train(size: Size, folder: Path, *others: object) -> int:
        trained.append(folder)
        folder.mkdir(parents=True)
        table = pd.read_csv(DOCS / "transfer" / "scheduler_width.csv")
        table.to_csv(folder / "results.csv", index=False)
        return 0

    monkeypatch.setattr("mupl.reproduce.figure.train", train)
    with pytest.raises(SystemExit):
        main(["reproduce", "schedule", "lr_mlp", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit):
        main(["reproduce", "lr_mlp", "--size", "paper", "--run", "--folder", str(tmp_path)])
    names = ["schedule_tiny", "lr_mlp_tiny", "lr_mlp_paper"]
    assert trained == [tmp_path / name for name in names]
    assert (tmp_path / "schedule_tiny" / "schedule.png").exists()


def test_a_kept_table_is_redrawn_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "lr_mlp", "--size", "paper"])
    assert end.value.code == 0
    assert (tmp_path / "outputs/reproduce/lr_mlp_paper/lr_mlp.png").stat().st_size > 10_000
    assert "4 of 4 numbers are as expected" in capsys.readouterr().out


# --- all of them


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if "tiny" in read_entry(name).sizes])
def test_a_tiny_figure_runs_and_passes(name: str, tmp_path: Path) -> None:
    assert make(read_entry(name), How(size="tiny", redraw=False, folder=tmp_path))


def test_a_reader_who_stops_reading_is_no_error() -> None:
    listing = f"{sys.executable} -m mupl reproduce --list"
    command = f"{listing} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env=environment()
    )
    assert (done.returncode, done.stderr) == (1, "")


def test_a_signal_ends_the_process_that_trains(tmp_path: Path) -> None:
    training, starting = tmp_path / "training.py", tmp_path / "starting.py"
    training.write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print('trains', flush=True)\n"
        "time.sleep(60)\n"
    )
    starting.write_text(
        "import sys\n"
        "from mupl.reproduce.run import start\n"
        f"sys.exit(start([sys.executable, {str(training)!r}]))\n"
    )
    arguments = [sys.executable, str(starting)]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "trains\n"
        process.terminate()
        assert process.wait(timeout=20) == 7


def test_a_kept_table_has_no_folder_of_a_machine() -> None:
    results = pd.DataFrame(
        {"width": [8], "data.root": ["/home/me/cifar10"], "data.rows": [3], "val_loss": [0.5]}
    )
    assert VIEWS["transfer"].kept(results).splitlines() == [
        "width,data.root,data.rows,val_loss",
        "8,cifar10,3,0.5",
    ]
