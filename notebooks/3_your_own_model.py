# %% [markdown]
# # Your own model
#
# For whoever has a PyTorch module and wants its learning rate to stay right when it grows. You
# will train one module in a plain loop and under Lightning, and see what mupl found out about it.

# %%
import lightning
import torch
import torch.nn.functional as F
from torch import nn

import mupl
from mupl.data import digits
from mupl.data.modules import TensorData

# %% [markdown]
# Write the module as a function of its width. Nothing in it knows of mupl.


# %%
class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(64, width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.readout = nn.Linear(width, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x.flatten(1))
        h = h + self.down(F.gelu(self.up(self.norm(h))))
        return self.readout(h)


# %% [markdown]
# `describe` builds it at two widths, and sees which dimensions grow. That tells the role of each
# tensor. `scale` looks the roles up in the table of a parametrization. `base_width` is where you
# tuned `lr`.

# %%
infos = mupl.describe(Net, width=256, base_width=64)
scales = mupl.scale(infos, "mup", torch.optim.AdamW, lr=3e-3)
for name, info in infos.items():
    print(f"{name:16} {info.role:8} lr {scales[name].lr:.2g}")
assert infos["up.weight"].role == "hidden"
assert scales["up.weight"].lr == 3e-3 / 4  # four times the base width

# %% [markdown]
# Two lines change in your own loop: the initial weights, and the param groups of the optimizer.

# %%
torch.manual_seed(0)
model = mupl.initialize_(Net(256), scales)
optimizer = torch.optim.AdamW(mupl.param_groups(model, scales))
data = TensorData(digits(), batch_size=64)
losses = []
for x, target in data.train_dataloader():
    loss = F.cross_entropy(model(x), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f} in {len(losses)} steps")
assert losses[-1] < 0.5 * losses[0]

# %% [markdown]
# The same with Lightning:

# %%
setup = mupl.Setup(Net, width=256, base_width=64, parametrization="mup", optimizer="adamw", lr=3e-3)
trainer = lightning.Trainer(
    max_steps=20, logger=False, enable_checkpointing=False, enable_progress_bar=False
)
trainer.fit(mupl.TrainingModule(setup), datamodule=data)
assert trainer.global_step == 20

# %% [markdown]
# **Is it right?** A coordinate check trains a few steps at several widths, and judges how every
# tensor moves. `fail` would name the tensor.

# %%
batches = [next(iter(data.train_dataloader())) for _ in range(3)]
rows = mupl.coord_check(Net, [64, 128, 256], batches, base_width=64, lr=3e-3, seeds=range(3))
table = mupl.verdict(rows)
print(table["verdict"].value_counts().to_string())
assert not (table["verdict"] == "fail").any(), table[table["verdict"] == "fail"]["reason"].tolist()

# %% [markdown]
# **Next:** models of transformers and timm need no more: [docs/models.md](../docs/models.md). For
# sweeps by the command line, put `Net` into a file and say `model._target_=my_net.Net`:
# [docs/your_model.md](../docs/your_model.md).
