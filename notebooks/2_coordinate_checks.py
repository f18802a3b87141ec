# %% [markdown]
# # Coordinate checks
#
# For whoever asks whether a network is parametrized as its table says. You will train MLPs of
# four widths for three steps, under three parametrizations and three optimizers, and see what
# moves alike at every width.

# %%
import pandas as pd

import mupl
from mupl.data import digits
from mupl.data.modules import TensorData
from mupl.figures.coordinates import plot_coordinates
from mupl.models import MLP

loader = TensorData(digits(), batch_size=64).train_dataloader()
batches = [batch for _, batch in zip(range(3), loader, strict=False)]
RATES = {"sgd": 0.1, "adam": 0.003, "adamw": 0.003}


def build(width: int) -> MLP:
    return MLP(64, 10, width, depth=2, zero_readout=True)


def check(parametrization: str, optimizer: str) -> pd.DataFrame:
    """Rows of a recorder at widths 64 to 512, three seeds."""
    return mupl.coord_check(
        build,
        [64, 128, 256, 512],
        batches,
        base_width=64,
        seeds=range(3),
        parametrization=parametrization,
        optimizer=optimizer,
        lr=RATES[optimizer],
    )


# %% [markdown]
# Each row is a mean of |x|: of a weight, of its update, or of what a layer returns. Its slope in
# log width must be what the table predicts. `verdict` compares them.

# %%
counts = []
for parametrization in ("sp", "mulinear", "cerebras"):
    for optimizer in RATES:
        if parametrization == "cerebras" and optimizer == "sgd":
            continue  # its table has rules for Adam alone
        table = mupl.verdict(check(parametrization, optimizer))
        fails = table[table["verdict"] == "fail"]
        row = {"parametrization": parametrization, "optimizer": optimizer, "fail": len(fails)}
        counts.append(row | {"of": len(table), "first": ", ".join(fails["name"].unique()[:2])})
found = pd.DataFrame(counts)
print(found.to_string(index=False))

# %% [markdown]
# SP fails at hidden layers and readout, whose updates move outputs more the wider the network is.
# MuLinear (multipliers inside of layers) and Cerebras (groups of learning rates) are muP in two
# formulations: nothing fails.

# %%
by_name = found.groupby("parametrization")["fail"]
assert by_name.min()["sp"] > 0
assert by_name.max()["mulinear"] == by_name.max()["cerebras"] == 0

# %% [markdown]
# The figure has the predicted slopes dashed, and marks what fails.

# %%
rows = check("sp", "adam")
plot_coordinates(rows, "SP, Adam", verdict=mupl.verdict(rows)).savefig("coordinates.png")

# %% [markdown]
# **Next:** [docs/coordinate_checks.md](../docs/coordinate_checks.md) says what each verdict
# means. `mupl check my_net:build --widths 64,128,256` does the same for your model.
