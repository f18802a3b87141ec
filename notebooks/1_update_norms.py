# %% [markdown]
# # From the norm of an update to muP
#
# For whoever has tuned a learning rate on a small network, and seen it fail on a large one. You
# will see why: how far a step moves activations depends on the width, and on which norm of the
# step is kept the same. No theory is needed beforehand.

# %%
import pandas as pd
import torch

import mupl
from mupl.analysis.slopes import fit_slope
from mupl.data import digits
from mupl.data.modules import TensorData
from mupl.models import MLP

WIDTHS = [64, 128, 256, 512, 1024]
loader = TensorData(digits(), batch_size=64).train_dataloader()
batches = [batch for _, batch in zip(range(2), loader, strict=False)]
NORMS = ["frobenius", "spectral", "rms_to_rms"]


def record(parametrization: str, optimizer: str = "adam", lr: float = 0.003) -> pd.DataFrame:
    """Norms of the first update, and the change of activations that it makes."""
    return mupl.coord_check(
        lambda width: MLP(64, 10, width, depth=2),
        WIDTHS,
        batches,
        base_width=64,
        seeds=range(3),
        parametrization=parametrization,
        optimizer=optimizer,
        lr=lr,
        kinds=["update", "output_change"],
        statistics=["l1", *NORMS],
    )


def power(rows: pd.DataFrame, kind: str, name: str, statistic: str, t: int) -> float:
    """The power of width with which a value grows."""
    chosen = rows[(rows["kind"] == kind) & (rows["name"] == name) & (rows["t"] == t)]
    return fit_slope(chosen[chosen["statistic"] == statistic], "width").slope


# %% [markdown]
# **How do norms of one update of Adam grow with width?** Each entry of an update has the size lr.
# So the Frobenius norm of a hidden matrix (n x n) grows as n. So does the spectral norm, as the
# update has few directions. The third is the spectral norm times (fan_in / fan_out)^1/2: by so
# much can the update change the RMS of what it is applied to.

# %%
sp = record("sp")
table = pd.DataFrame(
    {
        norm: {
            layer: power(sp, "update", f"{layer}.weight", norm, 0)
            for layer in ("layers.0", "layers.1", "readout")
        }
        for norm in NORMS
    }
)
print(table.round(2).to_string())
assert abs(table.loc["layers.1", "frobenius"] - 1) < 0.1
assert abs(table.loc["layers.1", "rms_to_rms"] - 1) < 0.2

# %% [markdown]
# **Which of them predicts how far activations move?** The RMS -> RMS norm: it grows as n for
# hidden layers, and so do the changes of what the hidden layer returns. No single learning rate
# serves all widths, and a smaller one would stop the input layer.

# %%
moved = {
    layer: power(sp, "output_change", layer, "l1", 1)
    for layer in ("layers.0", "layers.1", "readout")
}
print({layer: round(slope, 2) for layer, slope in moved.items()})
assert moved["layers.1"] > 0.4 > abs(moved["layers.0"])

# %% [markdown]
# **So give each layer its own learning rate.** Under Adam: lr for the input layer, lr/n for
# hidden layers and for the readout. Together with smaller initial values of the readout that is
# muP. Every layer now moves alike at every width.

# %%
mup = record("mup")
for layer in ("layers.0", "layers.1"):
    slope = power(mup, "output_change", layer, "l1", 1)
    print(f"muP, change of {layer}: width^{slope:.2f}")
    assert abs(slope) < 0.25

# %% [markdown]
# **Can a multiplier do the same?** Yes: a layer that computes with `w / n` and trains `w` by lr
# makes a change of lr / n. MuLinear does that.

# %%
mulinear = record("mulinear")
assert abs(power(mulinear, "output_change", "layers.1", "l1", 1)) < 0.25

# %% [markdown]
# **And an optimizer whose update has a norm of its own?** Shampoo without memory, and Muon, make
# all singular values of an update alike: its spectral norm is lr at every width, so that hidden
# layers need no factor at all.

# %%
orthogonal = record("sp", "muon", lr=0.02)
print(f"Muon, spectral norm: {power(orthogonal, 'update', 'layers.1.weight', 'spectral', 0):.2f}")
assert abs(power(orthogonal, "update", "layers.1.weight", "spectral", 0)) < 0.2

# %% [markdown]
# **Does a learning rate transfer now?** Train 60 steps at two widths, at five learning rates, and
# look for the best.


# %%
def final_loss(parametrization: str, width: int, lr: float) -> float:
    torch.manual_seed(0)
    setup = mupl.Setup(
        lambda size: MLP(64, 10, size, depth=2),
        width,
        base_width=64,
        parametrization=parametrization,
        optimizer="adam",
        lr=lr,
    )
    optimizer = setup.optimizer()
    losses = []
    for x, target in [*loader, *loader, *loader][:60]:
        loss = setup.loss(setup.model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10


rates = [2.0**-k for k in (10, 8, 7, 6, 5)]
best = {}
for parametrization in ("sp", "mup"):
    for width in (64, 1024):
        losses = {lr: final_loss(parametrization, width, lr) for lr in rates}
        best[parametrization, width] = min(losses, key=lambda lr: losses[lr])
        print(parametrization, width, {lr: round(loss, 3) for lr, loss in losses.items()})
assert best["sp", 1024] < best["sp", 64]
assert best["mup", 1024] >= best["mup", 64] / 2

# %% [markdown]
# **Next:** the same for optimizers of all kinds, and in full:
# [docs/update_norms.md](../docs/update_norms.md). The algebra of the smallest network:
# [docs/teaching.md](../docs/teaching.md). Then [2_coordinate_checks.py](2_coordinate_checks.py).
