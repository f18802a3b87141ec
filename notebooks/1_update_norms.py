# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 1. From norms of updates to muP
#
# For students, and for anyone who has never heard of muP. You should know what Adam and a matrix
# norm are.
#
# You will take one step of Adam and ask how far each layer moves. That leads to a norm, the norm to
# a learning rate for each layer, and this to muP. At the end one learning rate serves networks of
# width 4 to 256. There are eleven questions, each answered by a number or a figure. It takes a
# minute on two cores.
#
# The data are scikit-learn's digits. Set the environment variable `MNIST_ROOT` to the folder that
# holds `MNIST/raw`, and all is done on MNIST.

# %%
import os
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

import mupl
from mupl.analysis.norms import correlations, update_norms
from mupl.analysis.transfer import curves, transfer
from mupl.data import TrainLoader, digits, mnist
from mupl.figures.norms import plot_update_norms
from mupl.figures.transfer import plot_hyperparameter_transfer
from mupl.models import MLP

torch.set_num_threads(1)
ROOT = os.environ.get("MNIST_ROOT")
DATA = mnist(ROOT) if ROOT else digits()
x, y = next(iter(TrainLoader(DATA.train_batches(64, seeds=[0]))))

# %% [markdown]
# ## One step of Adam
#
# A network with layers of very different widths shows most. `RMS` is the root mean square of
# entries: what a typical entry is.

# %%
WIDTHS = [8, 16, 64, 64, 64, 256, 256, 1024]


def one_step(parametrization="sp", optimizer="adam", seed=0):
    """Take one step with lr 0.01; return the sizes of activations, and the norms of updates."""
    setup = mupl.Setup(
        lambda width: MLP(DATA.in_features, 10, width=width),
        WIDTHS,
        base_width=[1] * len(WIDTHS),
        parametrization=parametrization,
        optimizer=optimizer,
        lr=0.01,
        seed=seed,
    )
    steps = setup.optimizer()
    recorder = mupl.Recorder(
        setup.model,
        setup.scales,
        kinds=("output", "update", "output_update"),
        statistics=("rms", "frobenius", "spectral", "rms_to_rms"),
        probe=x,
    )
    with recorder:
        recorder.begin_step()
        F.cross_entropy(setup.model(x), y).backward()
        steps.step()
        recorder.end_step()
    rows = recorder.frame()
    sizes = rows[(rows["kind"] == "output") & (rows["statistic"] == "rms")]
    norms = update_norms(rows[rows["kind"] != "output"]).drop(columns="t", errors="ignore")
    shapes = [
        f"{info.fan_in}x{info.fan_out}" for name, info in setup.infos.items() if "weight" in name
    ]
    norms["shape"] = [f"{k} {shape}" for k, shape in enumerate(shapes)]
    norms["fan_in"] = [int(shape.partition("x")[0]) for shape in shapes]
    return sizes, norms


# %% [markdown]
# **Question 1. How large are the activations before training?** SP draws weights with variance
# 1 / fan-in, so that each layer keeps the size of its input, up to a factor for the ReLU.

# %%
sizes, sp = one_step()
print(sizes[["name", "value"]].to_string(index=False))
assert sizes["value"].between(0.005, 5).all()

# %% [markdown]
# **Question 2. How far does one step of Adam move them?** Very unequally.

# %%
print(sp[["shape", "activation_change"]].to_string(index=False))


def ratio(values):
    """Return how often the largest value holds the smallest."""
    return values.max() / values.min()


print(f"largest over smallest change: {ratio(sp['activation_change']):.0f}")
assert ratio(sp["activation_change"]) > 5

# %% [markdown]
# ## Three norms of an update
#
# - **Frobenius**: root of the sum of squares of all entries.
# - **spectral**: by how much the matrix can lengthen a vector.
# - **RMS→RMS**: by how much it can raise the RMS of a vector. It is the spectral norm times
#   sqrt(fan-in / fan-out).
#
# **Question 3. How much do they differ between layers?** Every entry of Adam's first update is
# the learning rate. So the norms follow from the shape alone, and from how alike the rows are.

# %%
NORMS = ["frobenius", "spectral", "rms_to_rms"]
print(sp[["shape", *NORMS]].to_string(index=False))
print(sp[NORMS].apply(ratio).round(1).to_string())

# %% [markdown]
# **Question 4. How does the RMS→RMS norm of Adam's update depend on fan-in?** About in proportion.
# An update of entries `lr` that all point in one direction adds `lr` times fan-in to its output.

# %%
slope = np.polyfit(np.log2(sp["fan_in"]), np.log2(sp["rms_to_rms"]), 1)[0]
print(f"RMS→RMS norm of an update of Adam ~ fan_in^{slope:.2f}")
assert 0.8 < slope < 1.2

# %% [markdown]
# ## A learning rate for each layer
#
# If the norm grows as fan-in, the learning rate must be divided by fan-in. This is the main rule of
# muP for Adam.
#
# **Question 5. Does a learning rate of lr / fan-in make the updates equal?** Nearly.

# %%
groups = {
    "biases": {"param_filter": "*.bias", "scale": 1},
    "input": {"param_filter": "layers.0.weight", "scale": "1/fan_in"},
    "output": {"param_filter": "readout.weight", "scale": 0.5},
}
by_groups = mupl.get_parametrization("mup", lr_adjustment_groups=groups)
_, per_layer = one_step(by_groups)
print(per_layer[["shape", "rms_to_rms", "activation_change"]].to_string(index=False))
for quantity in ("rms_to_rms", "activation_change"):
    print(f"{quantity}: {ratio(sp[quantity]):.1f} -> {ratio(per_layer[quantity]):.1f}")
assert ratio(per_layer["rms_to_rms"]) < ratio(sp["rms_to_rms"]) / 10
assert ratio(per_layer["activation_change"]) < ratio(sp["activation_change"]) / 2

# %% [markdown]
# **Question 6. Can multipliers do the same, with one learning rate for all?** Yes. A layer that
# computes with `a * w`, and whose `w` starts 1 / a as large, is the same layer. But under Adam it
# moves `a` times as far. `mulinear` is a table of such multipliers. (`lr_scale` of a tensor is the
# square of the factor on its learning rate.)

# %%
input_factor = 1 / DATA.in_features
multipliers = {
    "layers.0.weight": {"lr_scale": input_factor**2},
    "readout.weight": {"lr_scale": 0.5**2},
}
by_multipliers = mupl.get_parametrization("mulinear", overrides=multipliers)
_, multiplied = one_step(by_multipliers)
together = pd.DataFrame(
    {"groups": per_layer["rms_to_rms"], "multipliers": multiplied["rms_to_rms"]}
)
print(together.to_string())
assert np.allclose(together["groups"], together["multipliers"], rtol=0.2)

# %% [markdown]
# **Question 7. Which norm tells how far activations move?** Correlate logarithms over all layers
# and all three ways to train. RMS→RMS does best.

# %%
tables = {"SP": sp, "groups": per_layer, "multipliers": multiplied}
norms = pd.concat([table.assign(how=how) for how, table in tables.items()], ignore_index=True)
figure = plot_update_norms(norms, by="how")
figure.savefig("update_norms.png", bbox_inches="tight")
found = correlations(norms, by="how").set_index("how").round(2)
print(found.to_string())
assert found.loc["all", "rms_to_rms"] == found.loc["all"].max()

# %% [markdown]
# ## Another optimizer
#
# **Question 8. What are the norms of Shampoo's updates?** Simplified Shampoo replaces the gradient
# U S V^T by U V^T: all singular values are 1. So the spectral norm is the learning rate in each
# layer.

# %%
from mupl.optim import Orthogonal  # noqa: E402

every = ("input", "hidden", "output")
shampoo = partial(Orthogonal, method="svd", scale="none", roles=every, nesterov=False)
_, plain = one_step("sp", shampoo)
print((plain["spectral"] / 0.01).round(3).tolist())
assert ratio(plain["spectral"]) < 1.01

# %% [markdown]
# **Question 9. And rescaled by sqrt(fan-out / fan-in)?** Then the RMS→RMS norm is the learning rate
# in each layer. Here no rule for learning rates is needed: the optimizer does what muP is for.

# %%
rescaled = partial(Orthogonal, method="svd", scale="spectral", roles=every, nesterov=False)
_, spectral = one_step("sp", rescaled)
print((spectral["rms_to_rms"] / 0.01).round(3).tolist())
print(f"largest over smallest change of activations: {ratio(spectral['activation_change']):.1f}")
assert ratio(spectral["rms_to_rms"]) < 1.01

# %% [markdown]
# ## Transfer
#
# Now train. Three hidden layers of sigmoid units, widths 4 to 256, 100 steps of Adam, nine learning
# rates. `base_width` is 32: there SP and muP are the same network.


# %%
LEARNING_RATES = [2.0**k / 1000 for k in range(9)]


def train(parametrization, width, lr, seed=0, steps=100):
    """Train one network, and return its row of results."""
    setup = mupl.Setup(
        lambda width: MLP(DATA.in_features, 10, width=width, activation="sigmoid", init_std=2.0),
        width,
        base_width=32,
        parametrization=parametrization,
        optimizer="adam",
        lr=lr,
        seed=seed,
    )
    optimizer = setup.optimizer()
    loader = TrainLoader(DATA.train_batches(64, seeds=[seed]))
    done = 0
    while done < steps:
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(setup.model(images), labels).backward()
            optimizer.step()
            done += 1
            if done == steps:
                break
    with torch.no_grad():
        losses = [F.cross_entropy(setup.model(a), b, reduction="sum") for a, b in VALIDATION]
    loss = sum(losses).item() / sum(len(b) for _, b in VALIDATION)
    settings = {"parametrization": parametrization, "width": width, "lr": lr, "seed": seed}
    return {**settings, "optimizer": "adam", "status": "completed", "val_loss": loss}


VALIDATION = list(DATA.val_batches(1000))
runs = [
    train(parametrization, width, lr)
    for parametrization in ("sp", "mup")
    for width in (4, 8, 16, 32, 64, 128, 256)
    for lr in LEARNING_RATES
]
results = pd.DataFrame(runs)
figure = plot_hyperparameter_transfer(results, unit="nats")
figure.savefig("transfer.png", bbox_inches="tight")

# %% [markdown]
# **Question 10. How does the best learning rate move with width?** `drift` is in octaves
# (factors of 2) for each doubling of width. `worst_regret` is what the best learning rate of
# width 4 loses at a larger width.

# %%
moves = transfer(results).set_index("parametrization")
print(moves[["drift", "worst_regret"]].to_string())
assert moves.loc["sp", "drift"] < -0.25
assert abs(moves.loc["mup", "drift"]) < 0.25

# %% [markdown]
# **Question 11. Is there one learning rate for all widths, and how good is it?** Take the learning
# rate at which muP's loss is lowest on average over widths. Look at how much each width loses by
# it, and train width 256 with it from three seeds.

# %%
losses = curves(results).pivot(index=["parametrization", "width"], columns="lr", values="mean")
lost = losses.sub(losses.min(axis=1), axis=0)
mean_losses = losses.loc["mup"].mean()
best = mean_losses.idxmin()
print(f"one learning rate: {best}")
print(lost[best].unstack(0).round(3).to_string())
of_seeds = [train("mup", 256, best, seed)["val_loss"] for seed in range(3)]
print(f"width 256, three seeds: {np.mean(of_seeds):.3f}")
assert np.mean(of_seeds) <= 0.5
assert (lost.loc["mup", best] < 0.1).sum() >= 5

# %% [markdown]
# ## What you have seen
#
# 1. How far a layer moves its outputs is told by the RMS→RMS norm of its update.
# 2. Under Adam this norm grows as fan-in. So hidden layers need lr / fan-in.
# 3. Multipliers can do the same. Shampoo, rescaled, does it by itself.
# 4. With these rules the best learning rate of a small network serves a large one.
#
# **Next:** [2_coordinate_checks.py](2_coordinate_checks.py) tests such rules for any optimizer.
# [docs/teaching.md](../docs/teaching.md) derives them in the smallest network. On a terminal, `mupl
# reproduce update_norms` and `mupl reproduce lr_sigmoid` make these figures with more seeds.
