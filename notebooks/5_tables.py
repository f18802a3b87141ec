# %% [markdown]
# # Three tables, one parametrization
#
# For whoever has read Tensor Programs V (Yang et al. 2022) and wonders which of its tables is
# right: 3, 8 or 9. All are. They give the same network, written in three ways. This notebook
# shows them, and goes from one to another.

# %%
import torch
from torch import nn

import mupl

ROLES = ("input", "hidden", "output")


def show(parametrization: mupl.Parametrization, update_kind: str) -> None:
    """Print multiplier, std of the initial weights and learning rate of each role."""
    for role in ROLES:
        rule = parametrization.rule(update_kind, role)
        print(f"{role:8} mult {rule.mult!s:12} init {rule.init!s:12} lr {rule.lr}")


# %% [markdown]
# `m_in` is fan_in over the fan_in of the base model, and `m_out` the same of fan_out. A cell
# multiplies what you tuned at the base width.

# %%
for name in ("mup", "mup_table3", "mup_table9"):
    print(f"\n{name}: {mupl.get_parametrization(name).name}, under Adam")
    show(mupl.get_parametrization(name), "adam")

# %% [markdown]
# A layer computes with `mult * w`. Multiply `mult` by θ and divide the initial weights by θ: the
# network that starts is the same. It also trains the same, if the learning rate makes the same
# change of `mult * w`: under Adam, whose step has the size lr, it is divided by θ; under SGD by
# θ^2, as the gradient of w has a factor θ of its own (Lemma J.1). `mupl.shift` does all that.
#
# Table 8 has a multiplier 1/m_in on the readout. Multiply it by m_in, and it is gone: Table 3.

# %%
table_3 = mupl.shift("mup", {"output": "m_in"}, ["sgd", "adam"])
show(table_3, "adam")
for kind in ("sgd", "adam"):
    for role in ROLES:
        assert table_3.rule(kind, role) == mupl.get_parametrization("mup_table3").rule(kind, role)

# %% [markdown]
# Table 9 spreads the factors evenly: multiply the input layer by m_out^1/2, and the readout by
# m_in^1/2.

# %%
table_9 = mupl.shift("mup", {"input": "m_out^1/2", "output": "m_in^1/2"}, ["sgd", "adam"])
show(table_9, "adam")

# %% [markdown]
# Is that true of real networks? Train one by each table, from the same random numbers, and
# compare.

# %%
torch.set_default_dtype(torch.float64)


def build(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
    )


def losses(parametrization: str | mupl.Parametrization) -> list[float]:
    """The losses of ten steps of Adam at four times the base width."""
    torch.manual_seed(0)
    setup = mupl.Setup(
        build, 64, base_width=16, parametrization=parametrization, optimizer="adam", lr=0.01
    )
    optimizer = setup.optimizer()
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    found = []
    for _ in range(10):
        loss = (setup.model(x) - x[:, :1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


reference = losses("mup")
for parametrization in ("mup_table3", table_9):
    largest = max(abs(a - b) for a, b in zip(losses(parametrization), reference, strict=True))
    print(f"largest difference of a loss: {largest:.1e}")
    assert largest < 1e-6  # Adam's eps, and rounding
different = max(abs(a - b) for a, b in zip(losses("sp"), reference, strict=True))
print(f"SP, for comparison: {different:.1e}")
assert different > 1e-3

# %% [markdown]
# **Next:** [docs/coordinate_checks.md](../docs/coordinate_checks.md) tests whether a network does
# what a table says. Which one to use? `mup` (Table 8) leaves the initial weights of a readout as
# they are, and `mup_table3` needs no multiplier in the model.
