# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 5. Three tables, one network
#
# For readers of Tensor Programs V who wonder why it has three tables for one parametrization, and
# which of them to use.
#
# You will see tables 3, 8 and 9 side by side, and the one rule that leads from each to the others.
# Then you train all three and see one loss curve. It takes a quarter of a minute.

# %%
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

import mupl

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

# %% [markdown]
# ## The tables
#
# A table says how four numbers of a weight change with width. `m_in` is fan-in over fan-in at the
# base width, `m_out` the same for fan-out. A cell multiplies the value that you tuned at the base
# width. `mult` multiplies the weight in the forward pass: the layer computes with `mult * w`.


# %%
def cells(parametrization, update_kind):
    """Return a table as a data frame: a row for each role, a column for each number."""
    rows = mupl.get_parametrization(parametrization).table(update_kind)
    return pd.DataFrame(rows).set_index("role")


TABLES = {"mup_table3": "Table 3", "mup": "Table 8", "mup_table9": "Table 9"}
for name, title in TABLES.items():
    print(f"{title}, Adam\n{cells(name, 'adam').to_string()}\n")

# %% [markdown]
# The tables differ in the rows `input` and `output` only.
#
# - Table 3 has no multipliers. It works with modules as they are.
# - Table 8 has a multiplier at the readout. So the readout keeps its initial size, and tied
#   embeddings work.
# - Table 9 is the original. Under SGD all its learning rates are the same, but for hidden layers
#   whose fan-in and fan-out grow apart.
#
# ## One rule leads from one to another
#
# Take any number theta > 0. Multiply `mult` by theta, and divide the initial std by theta. The
# network is the same, as it computes with `mult * w`. Training is the same too if the learning
# rate makes up for it:
#
# - **SGD**: the gradient of `w` is theta times as large, and a step moves `mult * w` by theta times
#   what it moves `w`. So the learning rate is divided by theta squared.
# - **Adam**: its step does not depend on the size of the gradient. So the learning rate is divided
#   by theta, and eps is multiplied by theta.
#
# Theta may be a power of width. `mupl.shift` takes one for each role.

# %%
to_table_3 = mupl.shift("mup", {"output": "m_in"}, ["sgd", "adam"])
to_table_9 = mupl.shift("mup", {"input": "m_out^1/2", "output": "m_in^1/2"}, ["sgd", "adam"])


# %% [markdown]
# Cell by cell these are the tables of the paper:


# %%
def differing_cells(shifted, name):
    """List (update kind, role) of the rules that are not the same."""
    table = mupl.get_parametrization(name)
    found = []
    for update_kind in ("sgd", "adam"):
        for role in mupl.Role:
            if shifted.rule(update_kind, role) != table.rule(update_kind, role):
                found.append((update_kind, str(role)))
    return found


print("Table 8 moved to Table 3 differs at", differing_cells(to_table_3, "mup_table3"))
print("Table 8 moved to Table 9 differs at", differing_cells(to_table_9, "mup_table9"))
assert not differing_cells(to_table_3, "mup_table3")
assert not differing_cells(to_table_9, "mup_table9")

# %% [markdown]
# ## The same training
#
# We train a network at four times its base width, with AdamW and with SGD, under all
# three tables. Eps is large and there is weight decay, so that a wrong cell would be seen.
# We add a table of our own, shifted by an odd theta, and the standard parametrization.


# %%
def build(width):
    return nn.Sequential(
        nn.Linear(16, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 4)
    )


def losses(parametrization, options, steps=30):
    """Train at width 128, tuned at 32, and return the loss of each step."""
    setup = mupl.Setup(build, 128, base_width=32, parametrization=parametrization, **options)
    steps_of = setup.optimizer()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 16, generator=generator)
    target = x[:, :4].argmax(dim=1)
    found = []
    for _ in range(steps):
        loss = F.cross_entropy(setup.model(x), target)
        steps_of.zero_grad()
        loss.backward()
        steps_of.step()
        found.append(loss.item())
    return found


ours = mupl.shift("mup", {"input": "3*m_out^1/4", "hidden": 0.2, "output": 7}, ["sgd", "adam"])
adamw = {"optimizer": "adamw", "lr": 0.01, "eps": 1e-3, "weight_decay": 0.1}
sgd = {"optimizer": "sgd", "lr": 0.5, "weight_decay": 0.01}
for options in (adamw, sgd):
    found = {title: losses(name, options) for name, title in TABLES.items()}
    found["our own"] = losses(ours, options)
    found["SP"] = losses("sp", options)
    curves = pd.DataFrame(found)
    apart = curves.sub(curves["Table 8"], axis=0).abs().max()
    print(f"{options['optimizer']}: loss after {len(curves)} steps, largest distance from Table 8")
    print(pd.DataFrame({"loss": curves.iloc[-1], "distance": apart}).to_string(), "\n")
    assert apart[["Table 3", "Table 9", "our own"]].max() < 1e-7
    assert apart["SP"] > 1e-2

# %% [markdown]
# The four are one training. What is left is rounding. SP is another training.
#
# ## Which one to use
#
# - Use `mup` (Table 8) unless there is a reason not to.
# - Use `mup_table3` where nothing may be multiplied in the forward pass.
# - Use `mulinear` where the optimizer must have one learning rate for all.
#
# **Next:** write a table of your own. A table is a few lines of text in
# `mupl/parametrization/tables.py`, and `parametrization.overrides` changes a single cell. Whether
# it is right a coordinate check tells you: [2_coordinate_checks.py](2_coordinate_checks.py).
