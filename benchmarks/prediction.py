"""How well a ladder predicts its largest width, on ladders that are kept, and how optima drift.

    python benchmarks/prediction.py [--foreign FOLDER]

First tau and sigma of `mupl.analysis.drift` by maximum likelihood, from ladders with two seeds or
more. Then each ladder is predicted without its largest width, in three ways, and the predicted
learning rate is judged by the losses there: the regret, in % of the loss. FOLDER may hold tables of
others: spectral_sphere_*.csv of Unakar/Spectral-Sphere-Optimizer (figures_in_paper/raw_data/mup).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mupl.analysis.prediction import (
    Prediction,
    Recommended,
    curves,
    hyperparameters,
    predict,
    profile,
)
from mupl.analysis.transfer import Optimum

DOCS = Path(__file__).parents[1] / "docs"
MUP = "parametrization == 'mup'"
# file -> rows under rules that carry the learning rate from width to width, and what tells ladders
# of one file apart
KEPT: dict[str, tuple[str, list[str]]] = {
    "results/alignment.csv": (MUP, ["optimizer"]),
    "results/gpt_369m.csv": ("parametrization == 'completep' and depth == 6", []),
    "results/lr_mlp.csv": (MUP, []),
    "results/lr_sigmoid.csv": (MUP, []),
    "results/lr_transfer_hyperball.csv": (
        "not (optimizer == 'adamh' and hidden_lr == '1')",
        ["optimizer"],
    ),
    "results/lr_transfer_soap.csv": ("`optimizer.update_kind` == 'rotated_in'", []),
    "results/lr_transfer_steps.csv": ("width > 0", ["max_steps"]),
    "results/weight_decay_map_gpt.csv": ("width > 0", ["optimizer"]),
    "results/weight_decay_map_mlp.csv": ("width > 0", ["optimizer"]),
    "transfer/lr_norm.csv": (MUP, ["model.post_norm"]),
    "transfer/lr_transfer_shakespeare.csv": (MUP, []),
    "transfer/lr_width.csv": (MUP, []),
    "transfer/lr_width_hf_gpt2.csv": (MUP, []),
    "transfer/lr_width_hf_llama.csv": (MUP, []),
    "transfer/lr_width_shakespeare.csv": (MUP, []),
    "transfer/umup.csv": ("parametrization == 'umup/gpt'", []),
}
COLUMNS = ["width", "lr", "seed", "status", "val_loss"]
TAUS = np.arange(0, 0.81, 0.02)
SIGMAS = np.arange(0, 0.41, 0.01) + 1e-6


def ladders(foreign: Path | None) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the name and the runs of each ladder."""
    for file, (query, keys) in KEPT.items():
        table = pd.read_csv(DOCS / file).query(query)
        if "seed" not in table:
            table = table.assign(seed=0)
        extra = ["weight_decay"] if "weight_decay" in table else []
        groups = table.groupby(keys) if keys else [((), table)]
        for key, runs in groups:
            name = " ".join([Path(file).stem, *map(str, key)])
            yield name, runs[[*COLUMNS, *extra]].reset_index(drop=True)
    for path in sorted(foreign.glob("spectral_sphere_*.csv")) if foreign else []:
        table = pd.read_csv(path).rename(columns={"hidden_size": "width", "loss": "val_loss"})
        yield path.stem, table.assign(seed=0, status="completed")[COLUMNS]


def predicted(runs: pd.DataFrame, target: float) -> tuple[Prediction, Recommended]:
    """Predict a width, as if a run's FLOPs were the square of its width."""
    flops = {width: float(width) ** 2 for width in runs["width"].unique()}
    found = predict(runs, "val_loss", "width", flops, target, float(target) ** 2)
    [lr] = [one for one in found.recommended if one.key == "lr"]
    return found, lr


def measured(lr: Recommended) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log2 of widths and of optima, and the errors of these (NaN without seeds)."""
    optima = list(lr.optima.values())
    octaves = np.log2([[one.value, one.low, one.high] for one in optima])
    errors = (octaves[:, 2] - octaves[:, 1]) / (2 * 1.96)
    return np.log2(list(lr.optima)), octaves[:, 0], errors


def log_likelihood(lr: Recommended, tau: float, sigma: float) -> float:
    """Return the log-likelihood of a ladder's optima, whatever their height."""
    x, y, errors = measured(lr)
    far = x - x.mean()
    covariance = np.diag(errors**2 + sigma**2) + tau**2 * np.outer(far, far)
    inverse = np.linalg.inv(covariance)
    total = inverse.sum()
    off = y - (inverse @ y).sum() / total
    return float(-(np.linalg.slogdet(covariance)[1] + np.log(total) + off @ inverse @ off) / 2)


def print_prior(found: list[Recommended]) -> None:
    """Print tau and sigma, with their 95 % intervals under a flat prior."""
    table = np.zeros((len(TAUS), len(SIGMAS)))
    for i, tau in enumerate(TAUS):
        for j, sigma in enumerate(SIGMAS):
            table[i, j] = sum(log_likelihood(one, tau, sigma) for one in found)
    best = np.unravel_index(table.argmax(), table.shape)
    likelihood = np.exp(table - table.max())
    for axis, (name, values) in enumerate({"tau": TAUS, "sigma": SIGMAS}.items()):
        shares = likelihood.sum(axis=1 - axis).cumsum()
        low, high = values[np.searchsorted(shares / shares[-1], [0.025, 0.975])]
        print(f"{name} = {values[best[axis]]:.2f} (95 % {low:.2f} to {high:.2f})")


def left_out(runs: pd.DataFrame) -> dict[str, Any]:
    """Predict the largest width of a ladder by the others, and compare."""
    largest = runs["width"].max()
    found, lr = predicted(runs[runs["width"] < largest], largest)
    keys = hyperparameters(runs, "width")
    settings = curves(runs[runs["width"] == largest], x=keys[0], keys=["width", *keys[1:]])
    curve = profile(settings, "lr", "width")
    best = Optimum.of(curve["lr"], curve["mean"])
    x, y, _ = measured(lr)
    values = {
        "mean": 2 ** y.mean(),
        "line": 2 ** np.polyval(np.polyfit(x, y, 1), np.log2(largest)),
        "posterior": lr.value.value,  # type: ignore[union-attr]
    }
    row: dict[str, Any] = {"widths": len(x), "seeds": runs["seed"].nunique()}
    for name, value in values.items():
        row[name] = 100 * best.regret(value, curve["lr"], curve["mean"]) / best.loss
    if found.freedom:
        row["lr inside"] = best.x in lr.value
        limit = 100 * lr.target_regret / best.loss
        row["regret inside"] = bool(row["posterior"] <= limit) if limit == limit else None
    if found.loss is not None and found.freedom:
        at_best = runs["width"].eq(largest) & runs["lr"].eq(curve.loc[curve["mean"].idxmin(), "lr"])
        if "weight_decay" in runs:
            at_best &= runs["weight_decay"].eq(curve.loc[curve["mean"].idxmin(), "weight_decay"])
        losses = runs.loc[at_best, "val_loss"]
        row |= {"loss inside": losses.between(found.loss.low, found.loss.high).mean()}
        row["loss off, %"] = 100 * (found.loss.value / losses.mean() - 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--foreign", type=Path, help="folder with tables of others")
    kept = dict(ladders(parser.parse_args().foreign))
    whole = {name: predicted(runs, 2 * runs["width"].max()) for name, runs in kept.items()}
    seeded = [lr for found, lr in whole.values() if found.freedom]
    print(f"{len(seeded)} ladders with seeds, of {len(kept)}")
    print_prior(seeded)
    rows = {name: left_out(runs) for name, runs in kept.items()}
    table = pd.DataFrame(rows).T.astype(float)
    print(table.round(2).to_string(na_rep=""))
    for title, part in {"all": table, "with seeds": table[table["seeds"] > 1]}.items():
        for name, values in {"mean": part.mean(), "median": part.median()}.items():
            print(f"{name} of {title}: " + ", ".join(f"{k} {v:.2f}" for k, v in values.items()))


if __name__ == "__main__":
    main()
