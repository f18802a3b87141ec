# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 4. Reading a sweep
#
# For anyone who has run a sweep, or is about to, and wants to work with its numbers in Python.
#
# You will train a small sweep, load its results as a data frame, plot a part of them, and compare
# two sweeps. It takes a minute on two cores. The data come with scikit-learn.

# %%
import subprocess
import sys
from pathlib import Path

import pandas as pd

from mupl.analysis.transfer import best, optima, transfer
from mupl.figures.transfer import plot_hyperparameter_transfer

FOLDER = Path("sweeps")


def mupl(*words):
    """Run a command of mupl as on a terminal, and return what it printed."""
    command = [sys.executable, "-m", "mupl", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout


# %% [markdown]
# ## Two sweeps
#
# `-m` and commas make a sweep. `hydra/launcher=stacked` trains runs of one shape together. In a
# terminal you would write
#
#     mupl train -m hydra/launcher=stacked experiment=lr_transfer width=32,128,512 ...
#
# A second sweep trains twice as long. Run this cell again, and it is done at once: what has
# been trained is found.


# %%
def sweep(name, *overrides):
    """Train SP and muP at three widths and five learning rates; return the folder."""
    folder = FOLDER / name
    grid = ["width=32,128,512", "lr=1e-3,4e-3,1.6e-2,6.4e-2,2.56e-1", *overrides]
    experiment = ["hydra/launcher=stacked", "experiment=lr_transfer", f"hydra.sweep.dir={folder}"]
    mupl("train", "-m", *experiment, *grid)
    return folder


short = sweep("short", "max_steps=80")
long = sweep("long", "max_steps=160")
print(sorted(path.name for path in short.iterdir() if path.is_file()))

# %% [markdown]
# `report.html` is the page to look at first, in a browser. `results.csv` has a row for each run.

# %%
results = pd.read_csv(short / "results.csv")
columns = ["parametrization", "width", "lr", "status", "val_loss"]
print(results[columns].head(6).to_string(index=False))
assert len(results) == 2 * 3 * 5

# %% [markdown]
# ## The best learning rate of each width

# %%
table = best(results)
print(table[["parametrization", "width", "lr", "val_loss", "at_edge"]].to_string(index=False))

# %% [markdown]
# `at_edge` is true where the best value was the first or last one tried. Then it is not known:
# sweep further. Between the values tried, the optimum is the lowest point of a parabola:

# %%
print(optima(results)[["parametrization", "width", "lr", "regret"]].to_string(index=False))
moves = transfer(results).set_index("parametrization")
print(moves[["drift", "worst_regret"]].to_string())
assert abs(moves.loc["mup", "drift"]) < abs(moves.loc["sp", "drift"])
assert moves.loc["mup", "worst_regret"] < moves.loc["sp", "worst_regret"] / 5

# %% [markdown]
# - **drift** is by how many octaves (factors of 2) the optimum rises when the width doubles. Under
#   SP it falls. Under muP it moves less.
# - **worst_regret** is what you lose at a larger width with the best learning rate of the smallest.
#   This is what decides.
#
# Five learning rates and one seed tell no more than that. Three seeds give intervals.
#
# ## Plot a part
#
# A figure is a function from a table to a figure. So select rows first, with pandas.

# %%
part = results[(results["parametrization"] == "mup") & (results["width"] > 32)]
figure = plot_hyperparameter_transfer(part, unit="nats")
figure.savefig(FOLDER / "part.png", bbox_inches="tight")
assert [axes.get_title() for axes in figure.axes] == ["muP"]

# %% [markdown]
# ## Compare two sweeps
#
# Read both, and say in a column which one a row is from. Any column that differs makes panels.

# %%
both = pd.concat([results, pd.read_csv(long / "results.csv")], ignore_index=True)
figure = plot_hyperparameter_transfer(both, unit="nats")
figure.savefig(FOLDER / "both.png", bbox_inches="tight")
panels = [axes.get_title() for axes in figure.axes]
print(panels)
assert len(panels) == 4

# %%
lowest = both.pivot_table("val_loss", ["parametrization", "width"], "max_steps", aggfunc="min")
print(lowest.to_string())
assert (lowest[160] < lowest[80]).all()

# %% [markdown]
# Trained longer, every width is better. The same comparison as a page to send around is one
# command:

# %%
mupl("report", str(short), str(long), "--out", str(FOLDER / "compared"))
print(FOLDER / "compared" / "report.html")
assert (FOLDER / "compared" / "report.html").exists()

# %% [markdown]
# `mupl ls` lists the sweeps of a folder, so that you find them again:

# %%
print(mupl("ls", str(FOLDER)))

# %% [markdown]
# **Next:** [docs/reading_a_report.md](../docs/reading_a_report.md) explains every part of the page,
# and [docs/sweeps.md](../docs/sweeps.md) how to name, resume and prune sweeps. Losses from other
# code get the same treatment: [docs/your_own_table.md](../docs/your_own_table.md).
