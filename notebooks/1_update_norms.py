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
# a learning rate for each layer, and this to muP. Then one learning rate serves networks of width 4
# to 256. At the end another optimizer does by itself what muP is for.
#
# There are eleven questions, each answered by a number or a figure. They come from homework 3 of
# Berkeley's CS182, Fall 2025, in its order and with its networks, in our words. It takes a minute
# on two cores.
#
# The data are scikit-learn's digits. Set the environment variable `MNIST_ROOT` to the folder that
# holds `MNIST/raw`, and all is done on MNIST, as in the homework.

# %%
import os
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

import mupl
from mupl.analysis.norms import correlations
from mupl.analysis.transfer import curves, transfer
from mupl.data import TrainLoader, digits, mnist
from mupl.figures.norms import plot_update_norms
from mupl.figures.transfer import plot_hyperparameter_transfer
from mupl.models import MLP
from mupl.optim import Orthogonal

torch.set_num_threads(1)
ROOT = os.environ.get("MNIST_ROOT")
DATA = mnist(ROOT) if ROOT else digits()
x, y = next(iter(TrainLoader(DATA.train_batches(64, seeds=[0]))))

# %% [markdown]
# ## One step of Adam
#
# A network with layers of very different widths shows most. Its units are sigmoids, and PyTorch
# draws its weights. `RMS` is the root mean square of entries: what a typical entry is. Adam's
# epsilon is 1e-16, as gradients of the first layers are tiny.

# %%
WIDTHS = [8, 16, 64, 64, 64, 256, 256, 1024]
OTHER_WIDTHS = [8, 16, 32, 64, 128, 256, 512, 1024]
NORMS = ["frobenius", "spectral", "rms_to_rms"]


def network(widths, bias=True):
    """Return an MLP of sigmoid units."""
    layers = [nn.Flatten()]
    for fan_in, fan_out in pairwise([DATA.in_features, *widths, 10]):
        layers += [nn.Linear(fan_in, fan_out, bias), nn.Sigmoid()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def activations(model):
    """Return what the sigmoids of each hidden layer say about the batch."""
    found = []
    h = x
    for layer in model:
        h = layer(h)
        if isinstance(layer, nn.Sigmoid):
            found.append(h)
    return found


def one_step(widths=WIDTHS, parametrization="sp", optimizer="adam", lr=0.01, bias=True, seed=0):
    """Take one step; return a row for each hidden layer: its sizes, and how far it moved."""
    setup = mupl.Setup(
        partial(network, bias=bias),
        widths,
        base_width=[1] * len(widths),
        parametrization=parametrization,
        optimizer=optimizer,
        lr=lr,
        eps=1e-16,
        seed=seed,
    )
    steps = setup.optimizer()
    recorder = mupl.Recorder(setup.model, setup.scales, kinds=["update"], statistics=NORMS)
    before = activations(setup.model)
    with recorder:
        recorder.begin_step()
        F.cross_entropy(setup.model(x), y).backward()
        steps.step()
        recorder.end_step()
    after = activations(setup.model)
    rows = recorder.frame().pivot_table("value", "name", "statistic", sort=False)
    weights = [name for name in setup.infos if name.endswith("weight")][:-1]  # no readout
    layers = rows.loc[weights, NORMS].reset_index(drop=True)
    layers["fan_in"] = [setup.infos[name].fan_in for name in weights]
    layers["fan_out"] = [setup.infos[name].fan_out for name in weights]
    shapes = layers["fan_in"].astype(str) + "x" + layers["fan_out"].astype(str)
    layers["shape"] = layers.index.astype(str) + " " + shapes
    layers["activation"] = [rms(a) for a in before]
    layers["activation_change"] = [rms(b - a) for a, b in zip(before, after, strict=True)]
    return layers


def rms(entries):
    """Return the root mean square of each example's entries, as a mean over examples."""
    return entries.square().mean(dim=-1).sqrt().mean().item()


def ratio(values):
    """Return how often the largest value holds the smallest."""
    return values.max() / values.min()


def draw(tables, file):
    """Draw the changes and norms of some tables, each under its name."""
    named = [table.assign(how=how) for how, table in tables.items()]
    figure = plot_update_norms(pd.concat(named, ignore_index=True), by="how")
    figure.savefig(file, bbox_inches="tight")


# %% [markdown]
# **Question 1. What are the sizes of the layers?** Each matrix maps fan-in numbers to fan-out
# numbers. Before training all activations are of one size: sigmoids begin at about 1/2.

# %%
sp = one_step()
print(sp[["shape", "fan_in", "fan_out", "activation"]].round(3).to_string(index=False))
assert sp["activation"].between(0.4, 0.7).all()

# %% [markdown]
# **Question 2. How does the size of a layer decide how far its activations move?** By its fan-in,
# the width of the layer before it. Its own width matters less. An update of Adam has entries of one
# size, and a sum over more of them is larger.


# %%
def correlation(table, size):
    """Correlate log(size) with log(change of activations), over layers behind the first."""
    logs = np.log(table.loc[1:, [size, "activation_change"]])
    return logs.corr().iloc[0, 1]


print(sp[["shape", "activation_change"]].round(4).to_string(index=False))
print(f"largest over smallest: {ratio(sp['activation_change']):.0f}")
for size in ("fan_in", "fan_out"):
    print(f"correlation with {size}: {correlation(sp, size):.2f}")
assert ratio(sp["activation_change"]) > 10
assert correlation(sp, "fan_in") > correlation(sp, "fan_out")

# %% [markdown]
# **Question 3. Do they change as expected when the widths change?** Yes. Where fan-in doubles from
# layer to layer, the change of activations doubles too, from the third layer on.

# %%
other = one_step(OTHER_WIDTHS)
print(other[["shape", "activation_change"]].round(4).to_string(index=False))
steps = other["activation_change"].iloc[2:]
growth = (steps.iloc[-1] / steps.iloc[0]) ** (1 / (len(steps) - 1))
print(f"from layer to layer {growth:.2f} times as large")
assert 1.5 < growth < 2.2

# %% [markdown]
# ## Three norms of an update
#
# - **Frobenius**: root of the sum of squares of all entries.
# - **spectral**: by how much the matrix can lengthen a vector.
# - **RMS→RMS**: by how much it can raise the RMS of a vector. It is the spectral norm times
#   sqrt(fan-in / fan-out).
#
# **Question 4. Which norm of the update goes with the change of activations?** RMS→RMS, by the
# correlation of logarithms over layers. It grows as fan-in: an update of entries `lr` that all
# point in one direction adds `lr` times fan-in to its output. The others count fan-out too, and
# more outputs do not move each of them further.

# %%
print(sp[["shape", *NORMS]].round(3).to_string(index=False))
draw({"SP": sp, "SP, other widths": other}, "norms_adam.png")
samples = [one_step(widths, seed=k) for widths in (WIDTHS, OTHER_WIDTHS) for k in range(3)]
found = correlations(pd.concat(samples).assign(how="SP"), by="how").set_index("how").round(2)
print(found.loc["all"].to_string())
slope = np.polyfit(np.log2(sp["fan_in"]), np.log2(sp["rms_to_rms"]), 1)[0]
print(f"RMS→RMS norm of an update of Adam ~ fan_in^{slope:.2f}")
assert found.loc["all", "rms_to_rms"] == found.loc["all"].max()
assert 0.8 < slope < 1.2

# %% [markdown]
# ## A learning rate for each layer
#
# If the norm grows as fan-in, the learning rate must be divided by fan-in. This is the main rule of
# muP for Adam.
#
# **Question 5. Which learning rates move all layers equally?** `lr / fan_in`, for both lists of
# widths. Biases are as a layer with fan-in 1. They get a hundredth of `lr`, to see the weights.

# %%
groups = {
    "weights": {"param_filter": "*.weight", "scale": "1/fan_in"},
    "biases": {"param_filter": "*.bias", "scale": 0.01},
}
by_groups = mupl.get_parametrization("sp", lr_adjustment_groups=groups)
per_layer = one_step(WIDTHS, by_groups, lr=2.0)
per_layer_other = one_step(OTHER_WIDTHS, by_groups, lr=2.0)
both = {"lr / fan_in": per_layer, "lr / fan_in, other widths": per_layer_other}
draw(both, "norms_per_layer.png")
for before, table in ((sp, per_layer), (other, per_layer_other)):
    print(table[["shape", "rms_to_rms", "activation_change"]].round(3).to_string(index=False))
    for quantity in ("rms_to_rms", "activation_change"):
        print(f"largest over smallest {quantity}: {ratio(before[quantity]):.1f} before, ", end="")
        print(f"{ratio(table[quantity]):.1f} now")
    assert ratio(table["rms_to_rms"]) < 1.7
    assert ratio(table["activation_change"]) < 2.3

# %% [markdown]
# **Question 6. Why do the first layers still move less?** Their update is not one direction. Deep
# in this network all examples look alike, so they agree on the sign of each entry of the gradient.
# Then the update has rank one, and its spectral norm is its Frobenius norm. The first layers see
# differences between images. Their examples disagree, and the update has more than one direction.

# %%
first = [one_step(WIDTHS, by_groups, lr=2.0, seed=k) for k in range(5)]
means = sum(table[[*NORMS, "activation_change"]] for table in first) / len(first)
agreement = means["spectral"] / means["frobenius"]
shown = {"spectral / Frobenius": agreement, "activation_change": means["activation_change"]}
print(pd.DataFrame(shown).set_index(sp["shape"]).round(3).to_string())
assert agreement[0] < 0.85
assert agreement[0] < agreement[1] < agreement[2:].min()

# %% [markdown]
# **Question 7. Can multipliers do the same, with one learning rate for all?** Yes. A layer that
# computes with `a * w`, and whose `w` starts 1 / a as large, is the same layer. But under Adam it
# moves `a` times as far. `mulinear` is a table of such multipliers, `1 / fan_in` in hidden layers.
# The first layer does not grow, so it is told its own. (`lr_scale` of a tensor is the square of the
# factor on its learning rate.) Here are no biases.

# %%
input_factor = {"lr_scale": 1 / DATA.in_features**2}
by_multipliers = mupl.get_parametrization("mulinear", overrides={"1.weight": input_factor})
multiplied = one_step(WIDTHS, by_multipliers, lr=2.0, bias=False)
without_biases = one_step(WIDTHS, by_groups.override({"*.bias": {"lr": 0}}), lr=2.0)
draw({"SP": sp, "lr / fan_in": without_biases, "multipliers": multiplied}, "norms_multipliers.png")
changes = {"lr / fan_in": without_biases, "multipliers": multiplied}
changes = {how: table["activation_change"] for how, table in changes.items()}
print(pd.DataFrame(changes).set_index(sp["shape"]).round(3).to_string())
assert np.allclose(without_biases["rms_to_rms"], multiplied["rms_to_rms"], rtol=0.2)
assert ratio(multiplied["activation_change"]) < 2.3


# %% [markdown]
# **Question 8. Why is a multiplier as good as a learning rate?** Adam divides the gradient by its
# size. So `w` moves by `lr` whatever `a` is, and `a * w` by `a * lr`. So it is for an update by the
# sign of the gradient. Not for SGD: there the gradient of `w` has the factor `a` too, and `a * w`
# moves `a^2` times as far.


# %%
def moved(optimizer, multiplier):
    """Return how far the last hidden layer moves if it has a multiplier."""
    cells = {"mult": multiplier, "init": f"{1 / multiplier}*m_in^-1/2"}
    with_it = mupl.get_parametrization("sp", overrides={"15.weight": cells})
    return one_step(WIDTHS, with_it, optimizer)["frobenius"].iloc[-1]


factors = {}
for optimizer in ("adam", "sgd"):
    factors[optimizer] = moved(optimizer, 2) / moved(optimizer, 1)
print(f"twice the multiplier: {factors['adam']:.2f} times as far under Adam, ", end="")
print(f"{factors['sgd']:.2f} times under SGD")
assert abs(factors["adam"] - 2) < 0.02
assert abs(factors["sgd"] - 4) < 0.04

# %% [markdown]
# ## Transfer
#
# Now train. Three hidden layers of sigmoid units, widths 4 to 256, 100 steps of Adam, nine learning
# rates. `base_width` is 32: there SP and muP are the same network. So both are drawn over one axis,
# and no layer needs a factor of its own. Weights start twice as large as 1 / sqrt(fan-in), as a
# sigmoid passes on a quarter of its input at most.


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
# **Question 9. How does Adam's best learning rate move with width?** Down. `drift` is in octaves
# (factors of 2) for each doubling of width. `worst_regret` is what the best learning rate of
# width 4 loses at a larger width. The left half of the figure is SP.

# %%
moves = transfer(results).set_index("parametrization")
print(moves[["drift", "worst_regret"]].to_string())
assert moves.loc["sp", "drift"] < -0.25

# %% [markdown]
# **Question 10. And under muP: is there one learning rate for most widths, and how good is it?**
# Yes. Take the learning rate at which muP's loss is lowest on average over widths. Look at how much
# each width loses by it, and train width 256 with it from three seeds.

# %%
losses = curves(results).pivot(index=["parametrization", "width"], columns="lr", values="mean")
lost = losses.sub(losses.min(axis=1), axis=0)
mean_losses = losses.loc["mup"].mean()
best = mean_losses.idxmin()
print(f"one learning rate: {best}")
print(lost[best].unstack(0).round(3).to_string())
of_seeds = [train("mup", 256, best, seed)["val_loss"] for seed in range(3)]
print(f"width 256, three seeds: {np.mean(of_seeds):.3f}")
assert abs(moves.loc["mup", "drift"]) < 0.25
assert np.mean(of_seeds) <= 0.5
assert (lost.loc["mup", best] < 0.1).sum() >= 5

# %% [markdown]
# ## Another optimizer
#
# Simplified Shampoo replaces the momentum U S V^T by U V^T: all singular values are 1.
#
# **Question 11. How are Frobenius and spectral norm related, under Adam and under Shampoo?** Under
# Adam they are nearly equal, and both grow with the layer: its update is about one direction. Under
# Shampoo the spectral norm is the learning rate in every layer. The Frobenius norm is sqrt(r) times
# that, with r the number of directions of the gradient. That makes sense: the square of the
# Frobenius norm is the sum of the squares of singular values. Here r is at most 9. For all errors
# come from ten logits, where they sum to zero. And in deep layers examples look alike.

# %%
every = ("input", "hidden", "output")
shampoo = partial(Orthogonal, method="svd", scale="none", roles=every, nesterov=False)
plain = one_step(optimizer=shampoo)
shown = {}
for how, table in {"Adam": sp, "Shampoo": plain}.items():
    shown[f"{how}: spectral / lr"] = table["spectral"] / 0.01
    shown[f"{how}: (Frobenius / spectral)^2"] = (table["frobenius"] / table["spectral"]) ** 2
print(pd.DataFrame(shown).set_index(sp["shape"]).round(2).to_string())
assert ((sp["frobenius"] / sp["spectral"]) ** 2 < 3).all()
assert ratio(plain["spectral"]) < 1.01
assert ((plain["frobenius"] / plain["spectral"]) ** 2).between(0.99, 9.1).all()

# %% [markdown]
# **Bonus. By which factor are all RMS→RMS norms of Shampoo equal?** sqrt(fan-out / fan-in), as that
# norm is the spectral one times the inverse. Here no rule for learning rates is needed: the
# optimizer does what muP is for.

# %%
rescaled = partial(Orthogonal, method="svd", scale="spectral", roles=every, nesterov=False)
spectral = one_step(optimizer=rescaled)
draw({"Adam": sp, "Shampoo": plain, "Shampoo, rescaled": spectral}, "norms_shampoo.png")
print((spectral["rms_to_rms"] / 0.01).round(3).tolist())
assert ratio(spectral["rms_to_rms"]) < 1.01

# %% [markdown]
# **And Muon?** It finds U V^T by five matrix polynomials in place of an SVD. They leave singular
# values between about 0.7 and 1.2, which is as good for training, and much cheaper on a GPU.

# %%
muon = partial(Orthogonal, method="muon", scale="spectral", roles=every, nesterov=False)
nearly = one_step(optimizer=muon)
print((nearly["rms_to_rms"] / 0.01).round(2).tolist())
assert (nearly["rms_to_rms"] / 0.01).between(0.65, 1.25).all()

# %% [markdown]
# ## What you have seen
#
# 1. How far a layer moves its outputs is told by the RMS→RMS norm of its update.
# 2. Under Adam this norm grows as fan-in. So hidden layers need lr / fan-in.
# 3. Multipliers can do the same. Shampoo, rescaled, does it by itself.
# 4. With these rules the best learning rate of a small network serves a large one.
#
# On a terminal, `mupl reproduce` makes the figures of the homework with more seeds:
#
# | questions | figure |
# |---|---|
# | 2 to 7 | `mupl reproduce update_norms` |
# | 9, 10 | `mupl reproduce lr_sigmoid` |
# | 11 and the bonus | `mupl reproduce update_norms_shampoo` |
#
# **Next:** [2_coordinate_checks.py](2_coordinate_checks.py) tests such rules for any optimizer.
# [docs/teaching.md](../docs/teaching.md) derives them in the smallest network.
