# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 2. Coordinate checks
#
# For anyone who wants to know whether a parametrization is right: in a paper, in a library, or in
# their own code.
#
# You will check the standard parametrization (SP), MuLinear and Cerebras' formulation under SGD,
# Adam and AdamW. You will see what fails, and read what it means. It takes a minute on two cores.

# %%
import itertools
from functools import partial

import pandas as pd
import torch
from torch import nn

import mupl
from mupl.data import TrainLoader, digits
from mupl.figures.coordinates import plot_checks, plot_coordinates
from mupl.models import MLP

torch.set_num_threads(1)

# %% [markdown]
# ## What is checked
#
# Take a few steps at several widths. Measure how large the entries of each tensor are: outputs of
# layers, weights, and changes of weights. Plot each against width, both as logarithms. The slope is
# the power of width with which it grows.
#
# A good parametrization keeps the outputs of all layers where they are: slope 0. And every layer
# learns: no slope of an output's change is below 0. For each tensor the rule table predicts the
# slope, and the check compares.
#
# The model is an MLP of three hidden layers. Its readout starts at 0, and so do logits.

# %%
build = partial(MLP, 64, 10, depth=3, zero_readout=True)
BATCHES = list(itertools.islice(TrainLoader(digits().train_batches(64, seeds=[0])), 3))
LEARNING_RATES = {"sgd": 0.1, "adam": 0.01, "adamw": 0.01}


def check(parametrization, optimizer, seeds=3):
    """Return the rows of a coordinate check at widths 64 to 512."""
    rows = mupl.coord_check(
        lambda width: build(width=width),
        widths=[64, 128, 256, 512],
        batches=BATCHES,
        base_width=64,
        seeds=range(seeds),
        parametrization=parametrization,
        optimizer=optimizer,
        lr=LEARNING_RATES[optimizer],
    )
    return rows.assign(check=f"{parametrization}, {optimizer}")


# %% [markdown]
# ## One check
#
# SP under Adam, which is what a model does that nobody has thought about.

# %%
rows = check("sp", "adam")
verdict = mupl.verdict(rows)
PLOTTED = ["logits", "output", "update"]
figure = plot_coordinates(rows[rows["kind"].isin(PLOTTED)], "SP, Adam", verdict=verdict)
figure.savefig("sp_adam.png", bbox_inches="tight")
print(verdict["verdict"].value_counts().to_string())

# %% [markdown]
# A row of panels is a kind of quantity, of which we plot three, and a column is a step. Dashed
# lines are predictions. Red crosses mark what fails. After one update the logits grow with width:

# %%
logits = verdict.query("kind == 'logits' and t == 1").iloc[0]
print(f"logits after one update go as width^{logits['slope']:.2f}: {logits['verdict']}")
print(logits["reason"])
assert logits["verdict"] == "fail"
assert abs(logits["slope"] - 1) < 0.2

# %% [markdown]
# Why 1? A step of Adam moves every entry of the readout by about the learning rate, and all in the
# direction of the activations. So the sum over `width` activations grows as `width`.
#
# ## All checks
#
# - **mulinear** puts the rules into the layer: the optimizer has one learning rate.
# - **cerebras** uses learning-rate groups and a multiplier at the readout. It is for Adam and its
#   kin. SGD is refused, with one sentence:

# %%
try:
    check("cerebras", "sgd")
except mupl.ConfigError as error:
    print(error)

# %%
cases = [
    case
    for case in itertools.product(["sp", "mulinear", "cerebras"], LEARNING_RATES)
    if case != ("cerebras", "sgd")
]
tables = [check(*case) for case in cases]
rows = pd.concat(tables, ignore_index=True)
verdicts = [mupl.verdict(table).assign(check=table["check"].iloc[0]) for table in tables]
judged = pd.concat(verdicts, ignore_index=True)
counts = judged.pivot_table("name", "check", "verdict", aggfunc="count", fill_value=0, sort=False)
print(counts.to_string())
right = counts[~counts.index.str.startswith("sp")]
assert (right["fail"] == 0).all()
assert (counts.drop(right.index)["fail"] > 0).all()

# %% [markdown]
# SP fails under all three optimizers. Both formulations of muP pass under all that they are for.
# What is *not judged* scatters too much to tell, or fades as the networks grow.

# %%
under_adam = ["sp, adam", "mulinear, adam", "cerebras, adam"]
shown = rows[rows["check"].isin(under_adam) & rows["kind"].isin(PLOTTED)]
figure = plot_checks(shown, judged[judged["check"].isin(under_adam)])
figure.savefig("adam.png", bbox_inches="tight")

# %% [markdown]
# ## MuLinear is a layer
#
# The check above took rules from the table `mulinear`. `mupl.MuLinear` is the same as a layer, for
# a model that you write out. Any stock optimizer with one learning rate is right then:

# %%
WIDTH, BASE = 256, 64
hidden = partial(mupl.MuLinear, base_width=BASE, update_kind="adam")
model = nn.Sequential(
    nn.Flatten(),
    hidden(64, WIDTH, role="input"),
    nn.ReLU(),
    hidden(WIDTH, WIDTH, role="hidden"),
    nn.ReLU(),
    hidden(WIDTH, 10, role="output"),
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
losses = []
for x, y in BATCHES * 5:
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"loss {losses[0]:.2f}, after {len(losses)} steps {losses[-1]:.2f}")
assert losses[-1] < losses[0] / 2

# %% [markdown]
# ## A rule that is wrong
#
# Does the check notice? Take muP, and forget to divide the learning rate of hidden matrices by
# width:

# %%
wrong = mupl.get_parametrization("mup", overrides={"layers.1.weight": {"lr": "1"}})
verdict = mupl.verdict(check(wrong, "adam"))
failures = verdict[verdict["verdict"] == "fail"]
print(failures[["kind", "name", "t", "slope"]].to_string(index=False))
print(failures["reason"].iloc[0])
assert "layers.1.weight" in set(failures["name"])

# %% [markdown]
# **Next:** check your own model, in Python as above or by `mupl check my_net:build`.
# [docs/coordinate_checks.md](../docs/coordinate_checks.md) says what each verdict means.
# [docs/reading_a_report.md](../docs/reading_a_report.md) says how to read the figures.
