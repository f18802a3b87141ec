# %% [markdown]
# # Reading a sweep
#
# For whoever has run a sweep and wants more than its report. You will run a small one, load it as
# a table, plot a part of it, and compare it with another.

# %%
import subprocess
import sys
import tempfile
from pathlib import Path

from mupl.analysis.transfer import optima
from mupl.figures.transfer import plot_hyperparameter_transfer
from mupl.sweep.results import collect

FOLDER = Path(tempfile.mkdtemp())


def sweep(name: str, *arguments: str) -> Path:
    """Run a sweep of 18 MLPs on digits, as the command line does."""
    command = [
        *(sys.executable, "-m", "mupl", "train", "-m", "hydra/launcher=stacked"),
        *("parametrization=mup,sp", "width=32,128,512", "lr=0.004,0.016,0.064", "base_width=32"),
        *("max_steps=60", "trainer=cpu", f"hydra.sweep.dir={FOLDER / name}", *arguments),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return FOLDER / name


adam = sweep("adam", "optimizer=adam")

# %% [markdown]
# A sweep is a folder. `collect` makes a table of it: a row a run, with what was swept, and with
# what came out.

# %%
results = collect(adam)
print(results[["parametrization", "width", "lr", "status", "val_loss"]].to_string(index=False))
assert len(results) == 18

# %% [markdown]
# It is an ordinary pandas table. Where is the best learning rate of each width?

# %%
best = optima(results)
print(best[["parametrization", "width", "lr", "loss", "regret"]].round(4).to_string(index=False))
last = best[best["width"] == 512].set_index("parametrization")
assert last.loc["sp", "regret"] > last.loc["mup", "regret"]

# %% [markdown]
# `regret` is the loss that a width loses with the best learning rate of the smallest one: more
# under SP than under muP. Figures take tables too, so that a part of a table gives a figure of
# that part.

# %%
part = results[results["lr"] < 0.05]
figure = plot_hyperparameter_transfer(part)
figure.savefig(FOLDER / "part.png")
assert len(figure.axes) == 2  # one panel for each parametrization

# %% [markdown]
# On the command line that is `mupl report FOLDER --where "lr < 0.05"`. Two sweeps are compared in
# one report, which says in sentences how each does:

# %%
sgd = sweep("sgd", "optimizer=sgd")
report = [
    sys.executable,
    "-m",
    "mupl",
    "report",
    str(adam),
    str(sgd),
    "--out",
    str(FOLDER / "both"),
]
done = subprocess.run(report, check=True, capture_output=True, text=True)
print("\n".join(done.stdout.splitlines()[:6]))
both = collect(FOLDER / "both")
assert set(both["optimizer"]) == {"adam", "sgd"}
assert len(both) == 36

# %% [markdown]
# **Next:** `report.html` in each folder has all of this, to click on:
# [docs/reading_a_report.md](../docs/reading_a_report.md). How sweeps are named, found and
# resumed: [docs/sweeps.md](../docs/sweeps.md).
