"""Powers of width in the sizes of one update: SOAP and full Shampoo beside Adam.

    python benchmarks/update_exponents.py

An MLP 64-n-n-2n-n-10 of float64 is trained on scikit-learn's digits, in batches of 16, at n = 32 to
256. From step 20 on each update of each matrix is divided by its lr, and three sizes of it are
taken: its Frobenius norm, its spectral norm, and by how much it moves what the layer returns for
this batch, RMS(dW h) / RMS(h). The table has the slope of log(size), averaged over steps and seeds,
against log(n). Activations move alike at every width if they have the slope of 1 / (mult lr), the
column `rule`. At max_precondition_dim = n sides of 2n are left as they are.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, count, islice
from typing import Any

import numpy as np
import pandas as pd
import pytorch_optimizer
import torch
from torch import Tensor

import mupl
from mupl.data import digits
from mupl.data.modules import TensorData
from mupl.initializers import default_dtype
from mupl.models import MLP
from mupl.optim.blocked import BlockedShampoo, BlockedSOAP

WIDTHS = (32, 64, 128, 256)
SEEDS = (0, 1)
STEPS, FIRST = 50, 20
SOAP = partial(pytorch_optimizer.SOAP, weight_decay=0.0)
SHAMPOO = partial(pytorch_optimizer.Shampoo, matrix_eps=1e-12)

# name -> n -> the optimizer, and its lr at the base width
OPTIMIZERS: dict[str, tuple[Callable[[int], Any], float]] = {
    "Adam": (lambda n: partial(torch.optim.Adam, betas=(0.95, 0.95)), 1e-3),
    "SOAP": (lambda n: SOAP, 1e-3),
    "SOAP, basis of every step": (lambda n: partial(SOAP, precondition_frequency=1), 1e-3),
    "SOAP, sides up to n": (lambda n: partial(SOAP, max_precondition_dim=n), 1e-3),
    "Shampoo": (lambda n: SHAMPOO, 0.02),
    "Shampoo, matrix_eps of 0.1": (lambda n: partial(SHAMPOO, matrix_eps=0.1), 0.02),
    "SOAP in blocks of 16": (lambda n: partial(BlockedSOAP, block_size=16), 1e-3),
    "SOAP in blocks, Adam's norm": (
        lambda n: partial(BlockedSOAP, block_size=16, graft="adam"),
        1e-3,
    ),
    "Shampoo in blocks of 16": (lambda n: partial(BlockedShampoo, block_size=16), 0.005),
    "Shampoo, Adam's norm": (lambda n: partial(BlockedShampoo, graft="adam"), 1e-3),
    "Shampoo, SGD's norm": (lambda n: partial(BlockedShampoo, graft="sgd"), 0.05),
}


def sizes(optimizer: str, n: int, seed: int) -> Iterator[dict[str, Any]]:
    """Train one network; yield the sizes of its updates, divided by lr."""
    make, lr = OPTIMIZERS[optimizer]
    widths = [[w, w, 2 * w, w] for w in (n, WIDTHS[0])]
    setup = mupl.Setup(
        partial(MLP, 64, 10),
        widths[0],
        base_width=widths[1],
        optimizer=make(n),
        lr=lr,
        seed=seed,
    )
    inputs: dict[str, Tensor] = {}
    matrices = {name: w for name, w in setup.model.named_parameters() if w.ndim == 2}
    for name in matrices:
        layer = setup.model.get_submodule(name.removesuffix(".weight"))
        layer.register_forward_hook(partial(_keep, inputs, name))
    stepper = setup.optimizer()
    loader = TensorData(digits(), batch_size=16).train_dataloader()
    for step, (x, target) in enumerate(islice(chain.from_iterable(loader for _ in count()), STEPS)):
        stepper.zero_grad()
        setup.loss(setup.model(x.double()), target).backward()
        before = {name: w.detach().clone() for name, w in matrices.items()}
        stepper.step()
        if step < FIRST:
            continue
        for name, w in matrices.items():
            scale = setup.scales[name]
            update = (w.detach() - before[name]) / scale.lr
            h = inputs[name]
            moved = (h @ update.T).square().mean() / h.square().mean()
            yield {
                "optimizer": optimizer,
                "shape": _SHAPES[name],
                "n": n,
                "kind": str(scale.update_kind),
                "frobenius": update.norm().item(),
                "spectral": torch.linalg.matrix_norm(update, 2).item(),
                "activations": moved.sqrt().item(),
                "rule": 1 / (scale.mult * scale.lr),
            }


_SHAPES = {
    "layers.0.weight": "n x 64",
    "layers.1.weight": "n x n",
    "layers.2.weight": "2n x n",
    "layers.3.weight": "n x 2n",
    "readout.weight": "10 x n",
}


def _keep(inputs: dict[str, Tensor], name: str, module: Any, args: Any, output: Any) -> None:
    inputs[name] = args[0].detach()


def slopes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the slope of log(mean size) against log(n), for each optimizer and shape."""
    keys = ["optimizer", "shape", "kind"]
    columns = ["frobenius", "spectral", "activations", "rule"]
    means = rows.groupby([*keys, "n"], sort=False)[columns].mean()
    found = []
    for key, group in means.groupby(keys, sort=False):
        if len(group) == 1:  # a kind that a side has at the smallest n only
            continue
        log_n = np.log(group.index.get_level_values("n").astype(float))
        slope = {column: np.polyfit(log_n, np.log(group[column]), 1)[0] for column in columns}
        found.append(dict(zip(keys, key, strict=True)) | slope)
    return pd.DataFrame(found).round(2)


def main() -> None:
    """Train all, and print the table."""
    rows = []
    with default_dtype(torch.float64):
        for optimizer in OPTIMIZERS:
            for n in WIDTHS:
                for seed in SEEDS:
                    rows += sizes(optimizer, n, seed)
    print(slopes(pd.DataFrame(rows)).to_markdown(index=False))


if __name__ == "__main__":
    main()
