"""Random batches for a model whose first layer tells what it takes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupl.errors import ConfigError
from mupl.initializers import checked_module
from mupl.roles import Build, Width
from mupl.roles.sources import check_build
from mupl.stats.outputs import main_tensor
from mupl.training.losses import Loss, cross_entropy

BATCH_SIZE = 64
TOKENS = (8, 8)  # batch size and length of random tokens
GIVE_DATA = (
    "say --data my_package.my_module:batches, a list of (x, target) or of dicts or a function that "
    "returns one, and --step for another loss than the cross-entropy"
)


def random_batches(build: Build, width: Width, steps: int = 3) -> tuple[list[Any], Loss]:
    """Make random inputs and targets for `build(width)`, with the loss that they are for.

    Inputs are normal features where the first layer is an `nn.Linear`, tokens where it is an
    `nn.Embedding`. Targets are classes, or a normal number where the model returns one number.

    Returns:
        `steps` batches (x, target), and the loss.

    Raises:
        ConfigError: if the first layer does not tell what it takes, or the model takes something
            else.

    >>> batches, loss = random_batches(lambda width: nn.Linear(6, width), width=4)
    >>> [tuple(part.shape) for part in batches[0]]
    [(64, 6), (64,)]
    """
    check_build(build, width)
    model = checked_module(build(width))
    generator = torch.Generator().manual_seed(0)
    batches = []
    loss: Loss = cross_entropy
    for _ in range(steps):
        x = _inputs(model, generator)
        shape = _output_shape(model, x)
        if shape[-1] == 1:
            loss = F.mse_loss
            target = torch.randn(shape, generator=generator)
        else:
            target = torch.randint(shape[-1], shape[:-1], generator=generator)
        batches.append((x, target))
    return batches, loss


def _inputs(model: nn.Module, generator: torch.Generator) -> Tensor:
    """Draw inputs for the first layer of a model."""
    first = _first_layer(model)
    if isinstance(first, nn.Linear):
        return torch.randn(BATCH_SIZE, first.in_features, generator=generator)
    if isinstance(first, nn.Embedding):
        return torch.randint(first.num_embeddings, TOKENS, generator=generator)
    kind = type(first).__name__
    raise ConfigError(
        "--data: random inputs are made for a first layer that is an nn.Linear or an nn.Embedding, "
        f"not for a {kind}; {GIVE_DATA}"
    )


def _first_layer(model: nn.Module) -> nn.Module | None:
    """Return the first module without modules in it that has parameters."""
    for module in model.modules():
        is_leaf = next(module.children(), None) is None
        if is_leaf and next(module.parameters(), None) is not None:
            return module
    return None


@torch.no_grad()
def _output_shape(model: nn.Module, x: Tensor) -> torch.Size:
    try:
        output = main_tensor(model(x))
    except Exception as error:  # whatever a model raises for what it does not take
        message = " ".join(str(error).split())
        shape = tuple(x.shape)
        raise ConfigError(
            f"--data: the model does not take random inputs of shape {shape} ({message}); "
            f"{GIVE_DATA}"
        ) from error
    if output is None or output.dim() == 0:
        raise ConfigError(f"--data: the model returns no tensor for random inputs; {GIVE_DATA}")
    return output.shape
