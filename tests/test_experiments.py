"""Every experiment's jobs, and the report and figure of those on transfer."""

from collections.abc import Callable, Iterator
from itertools import cycle, product
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from mupl.analysis.transfer import HYPERPARAMETERS, SIZES, optima, swept_hyperparameter, swept_size
from mupl.figures.transfer import plot_hyperparameter_transfer
from mupl.names import AS_WRITTEN
from mupl.stacked.compose import SweepConfigLoader
from mupl.training.checks import check
from mupl.training.config import build_setup
from tests.commands import IGNORED, ROOT, TABLE_ONLY, Done, train_here

pytestmark = IGNORED

EXPERIMENTS = sorted(file.stem for file in (ROOT / "conf/experiment").glob("*.yaml"))
HYPERPARAMETER = {
    x.split(".")[-1]: x for x in ("lr", "model.output_mult", "model.init_std", "scheduler")
}
ALONG = dict(zip(("width", "depth", "batch_size", "context", "steps"), SIZES, strict=True))

Compose = Callable[..., tuple[dict[str, list[str]], list[DictConfig]]]


@pytest.fixture
def compose() -> Iterator[Compose]:
    """What a multirun's command line sweeps, and the configs of its first and last job."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = SweepConfigLoader(GlobalHydra.instance().config_loader())

        def compose(*task: str) -> tuple[dict[str, list[str]], list[DictConfig]]:
            master = loader.load_configuration("train", list(task), run_mode=RunMode.MULTIRUN)
            texts = [f"{key}={values}" for key, values in master.hydra.sweeper.params.items()]
            grid = {
                o.key_or_group: list(o.sweep_string_iterator())
                if o.is_discrete_sweep()
                else [str(o.value().start), str(o.value().end)]
                if o.is_interval_sweep()
                else [o.get_value_string()]
                for o in OverridesParser.create().parse_overrides(texts)
            }
            ends = ([f"{key}={values[i]}" for key, values in grid.items()] for i in (0, -1))
            return grid, [loader.compose(master, [*task, *end]) for end in ends]

        yield compose


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes(name: str, compose: Compose) -> None:
    for job in compose(f"experiment={name}")[1]:
        check(job)
        if job.model._target_ == "mupl.models.GPT":
            with torch.device("meta"):
                build_setup(job, {"vocabulary": 65, "context": job.data.context})


def planted(grid: dict[str, list[str]], x: str) -> pd.DataFrame:
    """Results of a grid whose loss is least at the middle of x, whatever the rest."""
    numbers, middle = {"seed", *SIZES, x} - {"scheduler"}, len(grid[x]) // 2
    rows = [dict(zip(grid, point, strict=True)) for point in product(*grid.values())]
    table = pd.DataFrame([{"width": 64, "lr": 0.01, **row} for row in rows])
    losses = [2 + (grid[x].index(row[x]) - middle) ** 2 for row in rows]
    table = table.assign(optimizer="adam", status="completed", val_loss=losses)
    return table.apply(lambda column: pd.to_numeric(column) if column.name in numbers else column)


# fast: each hyperparameter and each size once
FAST = set(zip(cycle(HYPERPARAMETER), ALONG, strict=False))


@pytest.mark.parametrize(
    ("name", "along"),
    [
        pytest.param(*pair, marks=() if pair in FAST else pytest.mark.slow)
        for pair in product(HYPERPARAMETER, ALONG)
    ],
)
def test_every_hyperparameter_is_swept_along_every_size(
    name: str, along: str, compose: Compose
) -> None:
    x, size = HYPERPARAMETER[name], ALONG[along]
    grid, _ = compose(f"experiment={name}_transfer_text", f"size={along}")
    assert set(grid) == {"parametrization", "seed", x, size}
    results = planted(grid, x)
    assert (swept_hyperparameter(results), swept_size(results)) == (x, size)
    found = optima(results, size=size, x=x)
    assert len(found) == len(grid["parametrization"]) * len(grid[size])
    assert not found["at_edge"].any()
    assert found["regret"].tolist() == pytest.approx([0] * len(found))


@pytest.mark.parametrize(
    ("name", "along"), [("lr", "depth"), ("output_mult", "batch_size"), ("scheduler", "width")]
)
def test_the_figure_has_a_panel_a_parametrization_and_a_curve_a_size(
    name: str, along: str, compose: Compose
) -> None:
    x, size = HYPERPARAMETER[name], ALONG[along]
    grid, _ = compose(f"experiment={name}_transfer_text", f"size={along}")
    figure = plot_hyperparameter_transfer(planted(grid, x), size=size, x=x)
    named = [text for name, text in AS_WRITTEN.items() if name in grid["parametrization"]]
    assert [axis.get_title() for axis in figure.axes] == named
    assert len(named) == len(grid["parametrization"])
    assert {axis.get_xlabel() for axis in figure.axes} == {HYPERPARAMETERS[x]}
    (legend,) = figure.legends
    assert legend.get_title().get_text() == SIZES[size]
    named = [text.get_text() for text in legend.get_texts()]
    assert named == [*grid[size], f"best {HYPERPARAMETERS[x]}"]
    plt.close(figure)


TINY = [
    "trainer=cpu",
    "width=8",
    "base_width=8",
    "model.d_head=4",
    "data.context=8",
    "batch_size=2",
    "max_steps=2",
    "seed=0",
]
SWEEPS = {
    "lr": ["size=depth", "depth=1,2", "parametrization=mup,completep", "lr=0.01,0.1"],
    "output_mult": [
        "size=context",
        "data.context=4,8",
        "model.output_mult=1,2",
        "model.post_norm=true,false",
    ],
    "init_std": ["size=steps", "max_steps=2,3", "parametrization=sp", "model.init_std=1,2"],
    "scheduler": [
        "size=batch_size",
        "batch_size=2,4",
        "parametrization=sp",
        "scheduler=step,linear",
    ],
}


@pytest.fixture
def sweep(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """A tiny sweep of an experiment on text, in the folder `sweep`."""

    def start(experiment: str, *overrides: str) -> Done:
        (tmp_path / "text.txt").write_text("To be, or not to be, that is the question. " * 20)
        paths = [f"data.file={tmp_path / 'text.txt'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
        stacked = ["-m", "hydra/launcher=stacked", f"experiment={experiment}"]
        done = train_here(capfd, *stacked, *TINY, *paths, *overrides)
        assert done.returncode == 0, done.stderr
        return done

    return start


# the others draw the same figure of other columns, as the test above does of planted losses
OFTEN = ("lr", "scheduler")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in SWEEPS],
)
def test_a_sweep_of_transfer_ends_with_its_figure(
    name: str, sweep: Callable[..., Done], tmp_path: Path
) -> None:
    done = sweep(f"{name}_transfer_text", *SWEEPS[name])
    assert "one by one" not in done.stdout
    assert (tmp_path / "sweep" / f"{name}_transfer.png").exists()
    assert (tmp_path / "sweep" / "transfer.json").exists()
    assert "transfer of the" in done.stdout


@pytest.mark.parametrize(
    ("experiment", "second", "expected"),
    [
        ("umup", "umup/gpt", 0.1 * 16**-0.5),
        ("embedding_lr", "mup/embedding_sqrt", 0.1 * (16 / 8) ** -0.5),
    ],
)
def test_variants_of_mup_differ_in_the_embedding_s_learning_rate(
    experiment: str, second: str, expected: float, sweep: Callable[..., Done], tmp_path: Path
) -> None:
    sweep(experiment, "width=8,16", "lr=0.1", "seed=0", TABLE_ONLY)
    rows = pd.read_csv(tmp_path / "sweep" / "results.csv")
    assert rows["parametrization"].unique().tolist() == ["mup", second]
    wide = rows[rows["width"] == 16].set_index("parametrization")["folder"]
    tables = [tmp_path / "sweep" / folder / "parametrization.csv" for folder in wide]
    lrs = [pd.read_csv(table, index_col="name").loc["embedding.weight", "lr"] for table in tables]
    assert lrs == pytest.approx([0.1, expected])
