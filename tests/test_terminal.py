"""Tables and bars on a terminal, also on a narrow one."""

import io

import pytest
from rich.console import Console

from mupl import terminal
from mupl.cli import main
from mupl.parametrization.scales import telling
from mupl.terminal import fitting_columns, print_table

ROWS = [
    {"name": "layers.0.weight", "role": "input", "lr": 0.01, "shape_factor": 1.0, "wd": 0.0},
    {"name": "layers.1.weight", "role": "hidden", "lr": 0.0025, "shape_factor": 1.0, "wd": 0.1},
]


@pytest.mark.parametrize("width", [36, 48, 80])
def test_no_cell_is_cut_on_a_narrow_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(terminal, "Console", lambda **options: console)
    print_table(ROWS, "parametrization")
    text = screen.getvalue()
    assert "…" not in text
    for word in ("layers.1.weight", "hidden", "0.0025", "shape_factor"):
        assert word in text
    assert max(map(len, text.splitlines())) <= width


def test_columns_are_divided_only_where_they_do_not_fit() -> None:
    assert fitting_columns(ROWS, 80) == [list(ROWS[0])]
    assert fitting_columns(ROWS, 1)[0] == ["name", "role"]  # cut, but there
    assert all(columns[0] == "name" for columns in fitting_columns(ROWS, 30))


def test_the_printed_table_leaves_out_what_changes_nothing() -> None:
    rows = [{"update_kind": "adam", "parts": "", "grad": 1, **row} for row in ROWS]
    assert list(telling(rows)[0]) == ["name", "role", "lr", "wd"]
    rows[0] |= {"update_kind": "orthogonal", "parts": "3 x 64"}
    assert list(telling(rows)[0]) == ["update_kind", "parts", "name", "role", "lr", "wd"]


@pytest.mark.parametrize(
    ("options", "whole"),
    [([], False), (["--all-columns"], True), (["--format", "csv"], True)],
    ids=["terminal", "all", "csv"],
)
def test_a_model_is_described_by_the_columns_that_tell(
    options: list[str], whole: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--width", "16", "--base-width", "8"]
    with pytest.raises(SystemExit):
        main(["describe", "tests.models:perceptron", *sizes, *options])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("mult", "init_std", "lr", "eps"))
    assert ("shape_factor" in shown) is whole
    assert whole or max(map(len, shown.splitlines())) <= 100
