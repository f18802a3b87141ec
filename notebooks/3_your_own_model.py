# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 3. Your own model
#
# For anyone who has a PyTorch model and wants to tune its learning rate on a small copy of it.
#
# You will train one model three times: in a plain loop, by Lightning, and by the Trainer of
# transformers a GPT-2. Then you check that nothing grows with width. It takes half a minute.

# %%
import itertools
import logging
import warnings

import lightning
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

import mupl
from mupl.data import TrainLoader, digits
from mupl.data.modules import TensorData

torch.set_num_threads(1)
warnings.filterwarnings("ignore", module="lightning")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

# %% [markdown]
# ## A model as a function of width
#
# mupl needs one thing of you: a function that builds your model at any width. It calls the function
# at a small width and at a large one. So it sees by itself which dimensions grow.


# %%
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


def build(width):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), Block(width), Block(width), nn.Linear(width, 10)
    )


infos = mupl.describe(build, width=256, base_width=64)
for name, info in infos.items():
    print(f"{name:16} {info.role}")

# %% [markdown]
# - `input`: only the outgoing dimension grows. Biases and gains count as such.
# - `hidden`: both dimensions grow.
# - `output`: only the incoming dimension grows.
# - `scalar`: nothing grows.
#
# ## A plain loop
#
# `base_width` is where you tuned the learning rate. `setup` holds the model with its initial
# weights, and makes an ordinary optimizer of torch with param groups.

# %%
setup = mupl.Setup(build, width=256, base_width=64, optimizer="adamw", lr=4e-3, weight_decay=0.1)
optimizer = setup.optimizer()
loader = TrainLoader(digits().train_batches(64, seeds=[0]))  # any iterable of (x, y)


def accuracy(model):
    """Return the share of right answers on the validation images."""
    right, count = 0, 0
    model.eval()
    with torch.no_grad():
        for x, y in digits().val_batches(256):
            right += (model(x).argmax(dim=1) == y).sum().item()
            count += len(y)
    return right / count


print(f"before: {accuracy(setup.model):.2f}")
setup.model.train()
for _ in range(3):
    for x, y in loader:
        loss = F.cross_entropy(setup.model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
plain = accuracy(setup.model)
print(f"after {3 * len(loader)} steps: {plain:.2f}")
assert plain > 0.85

# %% [markdown]
# What each tensor got. Hidden matrices have a quarter of the learning rate, as the width is four
# times the base width. The readout has a multiplier.

# %%
table = pd.DataFrame(setup.table())
print(table[["name", "role", "mult", "init_std", "lr", "wd"]].to_string(index=False))
assert setup.scales["2.up.weight"].lr == setup.scales["1.weight"].lr / 4

# %% [markdown]
# ## By Lightning
#
# `mupl.TrainingModule` is a LightningModule of a setup.

# %%
setup = mupl.Setup(build, width=256, base_width=64, optimizer="adamw", lr=4e-3, weight_decay=0.1)
trainer = lightning.Trainer(
    max_steps=66,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(mupl.TrainingModule(setup), datamodule=TensorData(digits(), batch_size=64))
by_lightning = accuracy(setup.model)
print(f"by Lightning: {by_lightning:.2f}")
assert by_lightning > 0.85

# %% [markdown]
# ## A model of transformers
#
# `mupl.hf` takes the config of the large model, and the fields that differ in the small one.
# Nothing is downloaded: the weights are drawn. (`pip install 'mupl[models]'`)

# %%
from transformers import GPT2Config, Trainer, TrainingArguments  # noqa: E402

config = GPT2Config(
    vocab_size=64,
    n_positions=16,
    n_embd=128,
    n_layer=2,
    n_head=4,
)
setup = mupl.hf(config, base={"n_embd": 32}, lr=1e-2, optimizer="adamw")
counting = torch.arange(64).unfold(0, 16, 1)  # 49 rows of 16 numbers in order
examples = [{"input_ids": row, "labels": row} for row in counting]
arguments = TrainingArguments(
    "trainer",
    max_steps=40,
    per_device_train_batch_size=16,
    report_to="none",
    save_strategy="no",
    disable_tqdm=True,
    use_cpu=True,
    logging_steps=40,
)


def loss_of(model):
    """Return the model's own loss on the examples."""
    model.eval()
    with torch.no_grad():
        return model(input_ids=counting, labels=counting).loss.item()


before = loss_of(setup.model)
warnings.filterwarnings("ignore", message="'pin_memory' argument")
Trainer(
    setup.model, arguments, train_dataset=examples, optimizers=(setup.optimizer(), None)
).train()
after = loss_of(setup.model)
print(f"GPT-2: loss {before:.2f} before, {after:.2f} after")
assert after < before / 2

# %% [markdown]
# The Trainer must get `optimizers=`. Else it makes its own optimizer, with one learning rate for
# all tensors.
#
# ## Is it right?
#
# A coordinate check trains a few steps at several widths, and looks whether anything grows. Do it
# once for each new model. It costs seconds, and finds what no error message would.

# %%
rows = mupl.coord_check(
    build,
    widths=[64, 128, 256, 512],
    batches=itertools.islice(loader, 3),
    base_width=64,
    optimizer="adamw",
    lr=4e-3,
)
verdict = mupl.verdict(rows)
print(verdict["verdict"].value_counts().to_string())
assert not (verdict["verdict"] == "fail").any()

# %% [markdown]
# **Next:** tune `lr` at width 64 and train at any width with it.
# [docs/your_model.md](../docs/your_model.md) has models whose width is a config, and tensors whose
# role shapes do not tell. [docs/models.md](../docs/models.md) has more on transformers, timm and
# torchvision.
