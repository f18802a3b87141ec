"""The smallest network that shows what muP is for: f(x) = V^T U x, in two updates of SGD.

x is a number, and there are n hidden units.

python scripts/teaching.py [--widths 2 16 .. 1048576] [--folder outputs/teaching]

ends with teaching.csv, teaching.png and a table of slopes against width, SP beside muP, which
docs/teaching.md explains.
It needs no trainer: `train` is how mupl is used in a loop of one's own.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # works from a checkout that is not installed

import pandas as pd
import torch
from torch import nn

from mupl.nn.initialize import initialize_
from mupl.nn.tensors import parameters
from mupl.optim.groups import param_groups
from mupl.optim.scaling import scale
from mupl.report.common import save
from mupl.reproduce.two_vectors import plot, slopes
from mupl.roles import describe
from mupl.stats.recorder import Recorder
from mupl.terminal import print_table

LR, X, Y = 0.1, 1.0, 4.0  # one example: f(1) is to be 4


def build(n: int) -> nn.Module:
    """f(x) = V^T U x in the standard parametrization: U ~ N(0, 1), V ~ N(0, 1/n)."""
    model = nn.Sequential(nn.Linear(1, n, bias=False), nn.Linear(n, 1, bias=False))
    for layer in model:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    return model


def train(n: int, parametrization: str, seed: int = 0, updates: int = 2) -> pd.DataFrame:
    """Rows of a recorder, of the loss (f - Y)^2 / 2, at t = 0, .., updates."""
    infos = describe(build, n, base_width=1)
    scales = scale(infos, parametrization, torch.optim.SGD, lr=LR)
    torch.manual_seed(seed)
    model = initialize_(build(n), scales)
    optimizer = torch.optim.SGD(param_groups(parameters(model, scales), scales))
    x = torch.full((1, 1), X)
    with Recorder(model, scales, kinds=("output", "change")) as recorder:
        for _ in range(updates + 1):
            recorder.begin_step()
            optimizer.zero_grad()
            (0.5 * (model(x) - Y) ** 2).sum().backward()
            optimizer.step()
            recorder.end_step()
    return recorder.frame().assign(width=n, seed=seed, parametrization=parametrization)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[2**k for k in range(2, 21, 2)])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("outputs/teaching"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    runs = [
        train(n, p, s)
        for p in ("sp", "mup")
        for n in arguments.widths
        for s in range(arguments.seeds)
    ]
    rows = pd.concat(runs, ignore_index=True)
    rows.to_csv(arguments.folder / "teaching.csv", index=False)
    save(plot(rows), [arguments.folder / "teaching.png"])
    keys = ["quantity", "updates"]
    table = slopes(rows).pivot(index=keys, columns="parametrization", values="slope")
    print_table(table.reset_index().to_dict("records"), "exponents of width")
    print(arguments.folder / "teaching.png")


if __name__ == "__main__":
    main()
