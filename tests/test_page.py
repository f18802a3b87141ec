"""The page that a sweep ends with, as a browser shows it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import pytest
from jsonschema import Draft7Validator

from mupl import cli
from mupl.identity import write_result
from mupl.report.hyperparameter_transfer import hyperparameter_transfer
from mupl.report.page import render, write_sweep_page
from mupl.sweep.reports import get_report, write_page
from tests.browser import Browser, start_browser
from tests.commands import row_of

TENSORS = pd.DataFrame({"name": ["up.weight"], "role": ["input"], "lr": [0.1], "init_std": [0.5]})
WIDE, PHONE = 1280, 360
MOST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from start_browser()


def write_job(sweep: Path, job: str, **entries: object) -> Path:
    """Write what a run leaves, but for its statistics."""
    config = {"loss": "mupl.training.setup.cross_entropy", "lr": entries.get("lr")}
    setting = {"width": 8, "lr": 0.1, "seed": 0, "parametrization": "mup", "optimizer": "adamw"}
    made_by = {"versions": {"mupl": "0.1.0"}, "packages": {}, "sources": {}, "data": {}}
    made_by["packages"] = {"torch": "2.11.0", "python": "3.11.7"}
    row = row_of(job, seconds=1.5, config=config, choices={}, provenance=made_by)
    write_result(sweep / job, row | setting | entries)
    TENSORS.to_csv(sweep / job / "parametrization.csv", index=False)
    return sweep / job


def transfer_sweep(sweep: Path) -> Path:
    """Write a sweep of SP beside muP, in which a run diverged and another failed."""
    for table, drift in (("sp", -0.5), ("mup", 0.0)):
        for width in (32, 64, 128):
            for rate in (0.25, 0.5, 1.0, 2.0):
                for seed in (0, 1):
                    octaves = np.log2(rate) - drift * np.log2(width / 64)
                    loss = 1 + 0.1 * octaves**2 + 0.01 * seed + 1 / width
                    run = {"parametrization": table, "width": width, "lr": rate, "seed": seed}
                    name = f"{table}{width}_{rate}_{seed}"
                    folder = write_job(sweep, name, val_loss=loss, **run)
                    curve = pd.DataFrame({"step": range(10)})
                    curve["train_loss"] = loss + np.exp(-curve["step"])
                    curve.to_csv(folder / "metrics.csv", index=False)
    gone = {"status": "diverged", "val_loss": float("inf"), "train_loss": float("inf")}
    write_job(sweep, "gone", parametrization="sp", width=128, lr=4.0, seed=0, **gone)
    error = "CUDA out of <memory> & such </script>"
    failed = {"status": "failed", "error": error}
    write_job(sweep, "broken", parametrization="sp", width=64, lr=4.0, seed=0, **failed)
    return sweep


def coordinate_rows(table: str, width: int, seed: int) -> pd.DataFrame:
    """Give the statistics of a run in which, under SP, the readout's output grows with width."""
    growth = 1.0 if table == "sp" else 0.0
    rng = np.random.default_rng(seed + width)
    rows = []
    for t in (0, 1):
        for layer in ("up", "readout"):
            power = growth if layer == "readout" and t == 1 else 0.0
            value = width**power * (1 + 0.02 * rng.random())
            rows.append((t, "output", layer, value, 0.0))
            value = (1 + 0.02 * rng.random()) / width
            rows.append((t, "update", f"{layer}.weight", value, -1.0))
    found = pd.DataFrame(rows, columns=["t", "kind", "name", "value", "high"])
    return found.assign(statistic="l1", low=found["high"], zero=False, width=width, seed=seed)


def coordinate_sweep(sweep: Path) -> Path:
    for table in ("sp", "mup"):
        for width in (64, 128, 256):
            for seed in (0, 1, 2):
                run = {"parametrization": table, "width": width, "seed": seed}
                folder = write_job(sweep, f"{table}{width}_{seed}", **run)
                rows = coordinate_rows(table, width, seed)
                rows.to_csv(folder / "coordinates.csv", index=False)
    return sweep


def norm_sweep(sweep: Path) -> Path:
    for table in ("sp", "mup"):
        folder = write_job(sweep, table, parametrization=table)
        rows = []
        for layer in ("up", "readout"):
            for statistic in ("frobenius", "spectral", "rms_to_rms"):
                rows.append(("update", f"{layer}.weight", statistic, len(layer) + len(table)))
            rows.append(("output_update", layer, "rms", len(layer) * len(table)))
        found = pd.DataFrame(rows, columns=["kind", "name", "statistic", "value"])
        found = found.assign(t=0, width=8, seed=0)
        found.to_csv(folder / "coordinates.csv", index=False)
        weights = pd.DataFrame({"name": ["up.weight", "readout.weight"], "shape": ["8x4", "2x8"]})
        weights.to_csv(folder / "parametrization.csv", index=False)
    return sweep


def scale_sweep(sweep: Path) -> Path:
    folder = write_job(sweep, "one")
    names = {"kind": ["param", "grad", "output"], "name": ["up.weight", "up.weight", "up"]}
    rows = pd.DataFrame(names | {"value": [1.0, 1.1, 9.0]})
    rows = rows.assign(t=0, statistic="rms", width=8, seed=0)
    rows.to_csv(folder / "coordinates.csv", index=False)
    return sweep


def plain_sweep(sweep: Path) -> Path:
    for optimizer in ("adam", "sgd"):
        for seed in (0, 1):
            loss = 0.5 + 0.1 * seed + len(optimizer)
            run = {"optimizer": optimizer, "seed": seed, "val_loss": loss}
            write_job(sweep, f"{optimizer}{seed}", **run)
    return sweep


SWEEPS = {
    "hyperparameter_transfer": (transfer_sweep, "Transfer of the learning rate", 6),
    "coordinate_check": (coordinate_sweep, "Coordinate check", 4),
    "update_norms": (norm_sweep, "Norms of updates", 4),
    "unit_scale": (scale_sweep, "Unit scale", 2),
    "plain": (plain_sweep, "Final losses", 1),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of each kind of sweep."""
    found = {}
    for name, (write, _, _) in SWEEPS.items():
        sweep = write(tmp_path_factory.mktemp(name))
        report = "hyperparameter_transfer" if name == "plain" else name
        get_report(report)(sweep, "val_loss")
        found[name] = write_sweep_page(sweep)
    return found


@pytest.fixture(scope="module")
def vega_lite() -> Draft7Validator:
    """The schema of charts, which Altair brings: Vega-Lite passes over what it does not know."""
    return Draft7Validator({**alt.load_schema(), "$ref": "#/definitions/TopLevelLayerSpec"})


@pytest.mark.parametrize("name", SWEEPS)
def test_every_chart_fits_the_schema(
    name: str, pages: dict[str, Path], vega_lite: Draft7Validator
) -> None:
    charts = re.findall(r'<script type="application/json">(.*?)</script>', pages[name].read_text())
    assert len(charts) == SWEEPS[name][2]
    for text in charts:
        spec = json.loads(text)
        assert vega_lite.is_valid(spec)
        spec["layer"][0]["mark"]["colour"] = "red"
        assert not vega_lite.is_valid(spec)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_chart_is_drawn_and_nothing_is_inaccessible(
    name: str, pages: dict[str, Path], browser: Browser
) -> None:
    _, heading, charts = SWEEPS[name]
    for dark in (False, True):
        browser.open(pages[name], dark=dark)
        assert browser.complaints() == []
        browser.shorten_tables(3)
        assert browser.violations() == []
    assert heading in browser.ask("document.body.innerText")
    assert browser.ask("document.querySelectorAll('.chart').length") == charts
    drawn = "document.querySelectorAll('.chart svg .role-mark path').length"
    assert browser.ask(drawn) >= charts


@pytest.mark.parametrize("name", SWEEPS)
def test_labels_are_whole_and_differ_and_open_tables_fit(
    name: str, pages: dict[str, Path], browser: Browser
) -> None:
    browser.open(pages[name], width=WIDE)
    of_axis = "[...axis.querySelectorAll('text')].map((text) => text.textContent)"
    axes = browser.ask(f"[...document.querySelectorAll('.role-axis-label')].map(axis => {of_axis})")
    assert axes
    for labels in axes:
        shown = [label for label in labels if label]
        assert len(set(shown)) == len(shown)
        assert not any("…" in label for label in shown)
    heads = browser.ask("[...document.querySelectorAll('th')].map((head) => head.textContent)")
    assert all(heads)
    tables = "[...document.querySelectorAll('details[open] .scroll')]"
    assert browser.ask(f"{tables}.filter((table) => table.scrollWidth > table.clientWidth)") == []


def test_a_curve_has_one_star(pages: dict[str, Path], browser: Browser) -> None:
    browser.open(pages["hyperparameter_transfer"])
    stars = "document.querySelectorAll('#charts-1-1 path[stroke=currentColor]').length"
    assert browser.ask(stars) == 6  # three widths, two parametrizations


def test_steps_are_whole_numbers(pages: dict[str, Path], browser: Browser) -> None:
    browser.open(pages["hyperparameter_transfer"])
    ticks = "[...document.querySelectorAll('#charts-2-1 .role-axis-label')].map(a => a.textContent)"
    assert "0123456789" in browser.ask(ticks)


@pytest.mark.parametrize("name", SWEEPS)
def test_a_phone_needs_no_horizontal_scrolling(
    name: str, pages: dict[str, Path], browser: Browser
) -> None:
    browser.open(pages[name], width=PHONE)
    assert browser.ask("document.documentElement.scrollWidth") == PHONE
    widths = browser.ask("[...document.querySelectorAll('.chart svg')].map(s => s.clientWidth)")
    assert all(PHONE / 2 < width <= PHONE for width in widths)
    assert browser.violations() == []


def test_dark_pages_are_dark_and_prints_are_light(pages: dict[str, Path], browser: Browser) -> None:
    page = pages["hyperparameter_transfer"]
    background = "getComputedStyle(document.body).backgroundColor"
    line = "getComputedStyle(document.querySelector('.mark-line path')).stroke"
    tick = "getComputedStyle(document.querySelector('.role-axis-label text')).fill"
    seen = {}
    for name, options in {"light": {}, "dark": {"dark": True}}.items():
        browser.open(page, **options)  # type: ignore[arg-type]
        seen[name] = [browser.ask(text) for text in (background, line, tick)]
    assert seen["light"][0] == "rgb(255, 255, 255)"
    assert seen["dark"][0] == "rgb(20, 23, 28)"
    for light, dark in zip(seen["light"], seen["dark"], strict=True):
        assert light != dark
    browser.open(page, dark=True, media="print")
    assert [browser.ask(text) for text in (background, line, tick)] == seen["light"]
    assert browser.ask("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_what_fails_is_seen_at_once_and_in_the_chart(
    pages: dict[str, Path], browser: Browser
) -> None:
    browser.open(pages["coordinate_check"])
    first = browser.ask("[...document.querySelectorAll('main > .findings li')].map(l=>l.innerText)")
    states = {re.sub(r"\s+", " ", text)[:30] for text in first}
    assert "✗ fail Coordinate check of SP:" in states
    assert "✓ pass Coordinate check of muP" in states
    text = browser.ask("document.body.innerText")
    assert "SP: output readout, t = 1: the output of readout goes as width^1.00" in text
    marks = "document.querySelectorAll('path[fill=\"var(--fail)\"]').length"
    assert browser.ask(marks) == 3  # at each width, after update 1
    browser.click("input[value='0']")
    browser.wait_for(marks, 0)


def test_the_legend_switches_series_off_in_all_panels(
    pages: dict[str, Path], browser: Browser
) -> None:
    browser.open(pages["hyperparameter_transfer"])
    lines = "document.querySelectorAll('#charts-1-1 .mark-line path').length"
    assert browser.ask(lines) == 6
    browser.click("#charts-1-1 button.series")
    browser.wait_for(lines, 4)


def test_words_and_errors_of_a_sweep_are_on_its_page(
    pages: dict[str, Path], browser: Browser
) -> None:
    browser.open(pages["hyperparameter_transfer"])
    text = browser.ask("document.body.innerText")
    assert "SP: the best learning rate falls by 0.50 octaves a doubling of width" in text
    assert "CUDA out of <memory> & such </script>" in text
    assert "50 runs: 48 completed, 1 diverged, 1 failed." in text
    assert "validation loss (nats)" in browser.ask("document.documentElement.textContent")


def test_a_sweep_that_is_not_done_says_how_many_runs_are_missing(tmp_path: Path) -> None:
    plain_sweep(tmp_path)
    plan = """
        hydra:
          sweeper: {_target_: hydra._internal.BasicSweeper, params: null}
          overrides: {hydra: [hydra.mode=MULTIRUN], task: ['optimizer=adam,sgd', 'seed=0,1,2']}
        """
    (tmp_path / "multirun.yaml").write_text(plan)
    text = write_sweep_page(tmp_path).read_text()
    assert "4 runs: 4 completed. The sweep&#39;s command asks for 6" in text
    assert "python train.py -m optimizer=adam,sgd seed=0,1,2" in text


def test_a_sweep_of_which_all_runs_failed_has_a_page(tmp_path: Path) -> None:
    write_job(tmp_path, "a", status="failed", error="no memory")
    text = write_sweep_page(tmp_path).read_text()
    assert "1 runs: 1 failed." in text
    assert "no memory" in text


def test_a_failed_run_whose_lr_was_a_word_does_not_cost_the_page(tmp_path: Path) -> None:
    transfer_sweep(tmp_path)
    write_job(tmp_path, "word", lr="abc", status="failed", error="lr=abc: must be a number")
    text = write_sweep_page(tmp_path).read_text()
    assert "lr=abc: must be a number" in text
    assert "Loss curves" in text


def test_sweeps_of_one_folder_are_told_apart_by_values_as_configs_have_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options_of = {"gpt": {"model.d_head": 4}, "mlp": {"model.keep": [1, 2]}}
    for model, options in options_of.items():
        for width in (32, 64):
            for lr in (0.1, 0.2):
                run = {"width": width, "lr": lr, "model": model, "val_loss": lr, **options}
                write_job(tmp_path, f"{model}{width}{lr}", **run)
    hyperparameter_transfer(tmp_path)
    said = capsys.readouterr().out
    assert "warning: model=gpt, d_head=4, keep=not set: the optimum lies at the edge" in said
    assert "warning: model=mlp, d_head=not set, keep=[1, 2]: the optimum lies at the edge" in said
    page = write_sweep_page(tmp_path).read_text()
    assert "d_head=4.0" not in page
    assert "d_head=nan" not in page


@pytest.mark.parametrize("wrong", [{"lr": "abc"}, {"width": "wide"}, {"model.depth": "deep"}])
def test_failed_runs_of_wrong_values_do_not_change_what_the_others_say(
    wrong: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transfer_sweep(tmp_path)
    said = []
    for errors in (["memory"], ["memory", "wrong"]):
        if "wrong" in errors:
            write_job(tmp_path, "wrong", **wrong, status="failed", error="must be a number")
        assert hyperparameter_transfer(tmp_path) == 1
        tables = [(tmp_path / name).read_text() for name in ("best.csv", "transfer.json")]
        shown, _, ends = capsys.readouterr().out.partition("48 completed, 1 diverged, ")
        said.append([shown, *tables])
        assert f"{len(errors)} failed in" in ends
    assert said[0] == said[1]
    assert "transfer of the learning rate along width" in said[0][0]
    assert (tmp_path / "lr_transfer.png").exists()
    assert "Transfer of the learning rate" in write_sweep_page(tmp_path).read_text()


def test_a_page_that_fails_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_page("write_sweep_page", tmp_path, "val_loss")
    said = capsys.readouterr().out
    assert said.startswith("no report.html (the tables are complete): ConfigError: ")
    assert said.count("\n") == 1


def test_sweeps_are_compared_on_one_page(tmp_path: Path) -> None:
    for name in ("before", "after"):
        plain_sweep(tmp_path / name)
    command = ["report", str(tmp_path / "before"), str(tmp_path / "after")]
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--out", str(tmp_path / "both")])
    assert not end.value.code
    text = (tmp_path / "both" / "report.html").read_text()
    assert "before and after" in text
    results = pd.read_csv(tmp_path / "both" / "results.csv")
    assert results["table"].value_counts().to_dict() == {"before": 4, "after": 4}
    assert results["table"].unique().tolist() == ["before", "after"]  # as they are given
    table = pd.read_csv(tmp_path / "both" / "best.csv")
    assert table["table"].unique().tolist() == ["before", "after"]


@pytest.mark.slow
def test_a_page_of_588_runs_is_small_and_soon_ready(tmp_path: Path, browser: Browser) -> None:
    for i in range(588):
        table, width, rate, seed = ["sp", "mup"][i % 2], i // 2 % 7, i // 14 % 14, i // 196
        octaves = rate - 7 + (width if table == "sp" else 0)
        run = {"parametrization": table, "width": 2**width, "lr": 2.0**-rate, "seed": seed}
        folder = write_job(tmp_path, str(i), val_loss=1 + 0.1 * octaves**2, **run)
        curve = pd.DataFrame({"step": range(500), "train_loss": 1.0})
        curve.to_csv(folder / "metrics.csv", index=False)
    page = write_sweep_page(tmp_path)
    assert page.stat().st_size < MOST_BYTES
    for dark in (False, True):
        for width in (WIDE, PHONE):
            browser.open(page, width=width, dark=dark)
            assert browser.complaints() == []
            assert browser.ask("document.documentElement.scrollWidth") <= width
            browser.shorten_tables(20)
            assert browser.violations() == []


@pytest.mark.parametrize("home", ["writable", "a file"])
def test_the_scripts_are_bundled_once_where_there_is_a_place_for_them(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = []
    if home == "a file":
        (tmp_path / "cache").write_text("")
    monkeypatch.setattr(render, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(
        render.vl_convert, "javascript_bundle", lambda: bundled.append(1) or "a</script"
    )
    for _ in range(2):
        assert render._library.__wrapped__() == r"a<\/script"
    assert len(bundled) == (1 if home == "writable" else 2)
