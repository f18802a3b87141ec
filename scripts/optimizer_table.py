"""One table of every optimizer: what is predicted of it, and what sweeps found.

    python scripts/optimizer_table.py SWEEP... [--save FOLDER]
    python scripts/optimizer_table.py docs/results/optimizers.csv docs/results/optimizers_late.csv

SWEEPs are folders of `experiment=optimizers` and of `experiment=optimizers_late`, in any number, or
the two tables that --save makes of them. A row an optimizer goes to stdout, as Markdown:

- update kind: of hidden matrices;
- hidden lr, hidden update: the powers of width that muP's table gives them;
- late check: how many tensors, kinds and steps pass, and how many fail;
- drift, worst regret: of the best learning rate over width (`mupl.analysis.transfer`), with the
  95 % interval over seeds;
- norm drift: of the readout's norm there, with its interval by the scatter over widths.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # works from a checkout that is not installed

import pandas as pd
from hydra import compose, initialize_config_dir

from mupl.analysis.coordinates import FAIL, PASS
from mupl.analysis.readout_norms import NORM_COLUMNS
from mupl.analysis.transfer import transfer
from mupl.errors import ConfigError
from mupl.parametrization.exponents import exponent
from mupl.training.config import build_setup
from mupl.training.registration import register
from mupl.training.setup import Setup

CONF = Path(__file__).parents[1] / "conf"
RESULTS, LATE = "optimizers.csv", "optimizers_late.csv"  # that --save makes
RESULT_COLUMNS = (*("optimizer", "width", "lr", "seed", "status", "val_loss", "readout_norm"),)
VERDICT_COLUMNS = (
    *("optimizer", "kind", "name", "t", "slope", "ci_low", "ci_high", "low", "high", "zero"),
    "verdict",
)
HIDDEN = "layers.1.weight"
MNIST = {"in_features": 784, "num_classes": 10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="sweeps, or tables that --save made")
    parser.add_argument("--save", type=Path, help=f"folder for {RESULTS} and {LATE}")
    options = parser.parse_args()
    try:
        results, verdicts = read(options.paths)
        if options.save is not None:
            results.to_csv(options.save / RESULTS, index=False, float_format="%.6g")
            verdicts.to_csv(options.save / LATE, index=False, float_format="%.4g")
        print(markdown(table(results, verdicts)))
    except ConfigError as error:
        sys.exit(f"error: {error}")


def read(paths: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return all results and all verdicts, each with a column `optimizer`."""
    results = [pd.DataFrame(columns=list(RESULT_COLUMNS))]
    verdicts = [pd.DataFrame(columns=list(VERDICT_COLUMNS))]
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: there is no such sweep or table")
        if path.is_file():
            found = pd.read_csv(path)
            (verdicts if "verdict" in found else results).append(found)
            continue
        found = pd.read_csv(path / "results.csv")
        if (path / "verdict.json").exists():
            rows = pd.DataFrame(json.loads((path / "verdict.json").read_text())["rows"])
            if "optimizer" not in rows:
                rows["optimizer"] = found["optimizer"].iloc[0]
            verdicts.append(rows)
        else:
            results.append(found)
    columns = list(RESULT_COLUMNS), list(VERDICT_COLUMNS)
    tables = [pd.concat(found[1:] or found) for found in (results, verdicts)]
    return tables[0][columns[0]], tables[1][columns[1]]


def table(results: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each optimizer that has results or a verdict."""
    measured = pd.DataFrame() if results.empty else transfer(results)
    if measured.empty:
        measured = pd.DataFrame(columns=["optimizer"])
    drifts = measured.set_index("optimizer")
    rows = []
    for name in dict.fromkeys([*results["optimizer"], *verdicts["optimizer"]]):
        row = {"optimizer": f"`{name}`", **predicted(str(name))}
        row["late check"] = said_of(verdicts[verdicts["optimizer"] == name])
        if name in drifts.index:
            row |= transfer_cells(drifts.loc[name])
        rows.append(row)
    return pd.DataFrame(rows)


def predicted(optimizer: str) -> dict[str, str]:
    """Return the update kind of hidden matrices under muP, and its powers of width."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"optimizer={optimizer}", "width=128", "base_width=64"])
    setup = build_setup(config, MNIST)
    kind = setup.scales[HIDDEN].update_kind
    last = setup.optimizer_rules.check_steps[-1]
    update = setup.expected_exponents(last, decay=True)["gradient_update", HIDDEN]
    power = f"{update.low:g}" if update.low == update.high else f"{update.low:g} to {update.high:g}"
    return {
        "update kind": f"`{kind}`",
        "hidden lr": f"{_lr_power(setup):g}",
        "hidden update": power,
    }


def _lr_power(setup: Setup) -> float:
    """Return the power of width in the lr of hidden matrices."""
    info = setup.infos[HIDDEN]
    rules = setup.optimizer_rules
    rule = setup.parametrization.rule(rules.kind_of(info), info.row)
    return exponent(rule.lr, info, rules) + 0.0  # no -0


def said_of(verdict: pd.DataFrame) -> str:
    """Say how many of the rows of a verdict pass, and how many fail."""
    if verdict.empty:
        return ""
    counts = verdict["verdict"].value_counts()
    passed = f"{counts.get(PASS, 0)} of {len(verdict)} pass"
    return f"{passed}, {counts[FAIL]} fail" if counts.get(FAIL) else passed


def transfer_cells(row: pd.Series) -> dict[str, str]:
    """Return the cells of one optimizer that say how its best learning rate transfers."""
    cells = {
        "drift, octaves a doubling": _with_interval(row, "drift", "drift_low", "drift_high"),
        "worst regret": f"{row['worst_regret']:.2g}",
        "norm drift": _with_interval(row, *NORM_COLUMNS) if "norm_drift" in row else "",
    }
    if row["edges"]:
        cells["worst regret"] = f"not known: edge of the grid at {row['edges']}"
    return cells


def _with_interval(row: pd.Series, value: str, low: str, high: str) -> str:
    said = f"{row[value] + 0.0:.2f}"
    return said if pd.isna(row[low]) else f"{said} ({row[low]:.2f} to {row[high]:.2f})"


def markdown(rows: pd.DataFrame) -> str:
    """Write a table as Markdown; what is not known is an empty cell.

    >>> print(markdown(pd.DataFrame({"optimizer": ["`sgd`"], "drift": [None]})))
    | optimizer | drift |
    |---|---|
    | `sgd` |  |
    """
    lines = [list(rows.columns), *rows.fillna("").astype(str).to_numpy().tolist()]
    written = [f"| {' | '.join(line)} |" for line in lines]
    written.insert(1, "|" + "---|" * len(rows.columns))
    return "\n".join(written)


if __name__ == "__main__":
    register()
    main()
