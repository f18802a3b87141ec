"""A plain training loop in float64, as short as can be: what the tests of parametrizations run."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytorch_optimizer
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupl.initializers import default_dtype
from mupl.models import MLP
from mupl.nn.initialize import initialize_
from mupl.optim.normalized import Normalized
from mupl.optim.orthogonal import Orthogonal
from mupl.optim.scion import Scion
from mupl.parametrization.rules import Parametrization, as_parametrization
from mupl.parametrization.scales import Scale
from mupl.training.setup import Setup

BASE = 8
MATRIX_EPS = 1e-2
SGD = partial(torch.optim.SGD, momentum=0.9)
HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.05, "weight_decay": 0.01},
    "adamw": {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.1},
    "lion": {"lr": 0.003, "weight_decay": 0.1},
    "sign_sgd": {"lr": 0.003, "weight_decay": 0.1},
    "adam_atan2": {"lr": 0.01, "weight_decay": 0.1},
    "shampoo_svd": {"lr": 0.05, "eps": 1e-3, "weight_decay": 0.1},
    "soap": {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.1},
    "shampoo": {"lr": 0.05, "weight_decay": 0.1},
    "adamh": {"lr": 0.03, "eps": 1e-3},
    "muonh": {"lr": 0.03, "eps": 1e-3},
    "scion": {"lr": 0.02},
    "adam_spectral": {"lr": 0.05, "eps": 1e-3, "weight_decay": 0.1},
}
# every matrix, and left as it is by the optimizer, so that every rule counts
MATRICES = partial(Orthogonal, method="svd", scale="none", roles=("input", "hidden", "output"))
SCION = partial(Scion, matrix_radius=2.0, readout_radius=2.0, other_radius=0.5, method="svd")
NORMALISED = partial(Normalized, normalise="hyperball", roles=("input", "hidden", "output"))
OPTIMIZERS = {
    "sgd": SGD,
    "adamw": torch.optim.AdamW,
    "shampoo_svd": MATRICES,
    "soap": pytorch_optimizer.SOAP,
    "shampoo": partial(pytorch_optimizer.Shampoo, matrix_eps=MATRIX_EPS, weight_decouple=True),
    "adamh": NORMALISED,
    "scion": SCION,
    "muonh": partial(Normalized, normalise="hyperball", inner=MATRICES),
    "adam_spectral": partial(NORMALISED, normalise="spectral"),
}


def build_mlp(width: Any, **options: Any) -> nn.Module:
    return MLP(in_features=6, num_classes=3, width=width, activation="tanh", **options)


def batches(steps: int, n: int = 16, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    """A task that can be learned: which of the first three inputs is the largest."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(n, 6, generator=generator, dtype=torch.float64) for _ in range(steps)]
    return [(x, x[:, :3].argmax(1)) for x in inputs]


def prepare(
    parametrization: str | Parametrization,
    optimizer: str,
    width: Any,
    *,
    base_width: Any = BASE,
    build: Callable[[Any], nn.Module] = build_mlp,
    seed: int = 0,
    edit: Callable[[Mapping[str, Scale]], Mapping[str, Scale]] = lambda s: s,
    **hyperparameters: Any,
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model in a parametrization with its optimizer; `edit` may spoil the scales.

    The depth of all these models is fixed.
    """
    with default_dtype(torch.float64):
        setup = Setup(
            build,
            width,
            base_width=base_width,
            parametrization=as_parametrization(parametrization).width_only(),
            optimizer=OPTIMIZERS.get(optimizer, optimizer),
            init={"*bias": {"name": "normal", "std": 0.1}},
            **HYPERPARAMETERS[optimizer] | hyperparameters,
        )
        setup.scales = edit(setup.scales)
        initialize_(setup.model, setup.scales, torch.Generator().manual_seed(seed))
        return setup.model, setup.optimizer()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
    """Losses of the steps: (steps,)."""
    losses = []
    for x, target in batches(steps):
        loss = F.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def trajectory(
    parametrization: str | Parametrization,
    optimizer: str,
    width: Any,
    *,
    steps: int = 20,
    **options: Any,
) -> Tensor:
    return train(*prepare(parametrization, optimizer, width, **options), steps)
