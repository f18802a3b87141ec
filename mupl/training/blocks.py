"""What is done to each block of a model: recompute its activations, or shard its weights."""

from functools import partial

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils.checkpoint import checkpoint

from mupl.errors import ConfigError
from mupl.nn.dropout import Dropout


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the entries of a model's outermost lists of modules, such as the blocks of a GPT.

    A list is an nn.ModuleList or an nn.Sequential. Entries without weights are left out.

    >>> layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    >>> len(blocks(nn.ModuleDict({"embedding": nn.Linear(2, 2), "blocks": layers})))
    2
    """
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and module not in inside:
            inside.update(module.modules())
            found += [block for block in module if any(True for _ in block.parameters())]
    return found


def checkpoint_activations(model: nn.Module) -> None:
    """Let every block compute its activations again in the backward pass, instead of keeping them.

    The training is the same up to rounding, with less memory and about a third more time (Chen et
    al. 2016, arXiv:1604.06174).

    Raises:
        ConfigError: for a model without blocks, or with masks that a second pass would draw anew.
    """
    found = blocks(model)
    if not found:
        raise ConfigError(
            "checkpoint_activations=true: the model has no list of blocks (nn.ModuleList or "
            "nn.Sequential); say checkpoint_activations=false"
        )
    if any(isinstance(module, Dropout) and module.p > 0 for module in model.modules()):
        raise ConfigError(
            "checkpoint_activations=true: dropout would draw another mask in the second pass; say "
            "model.dropout=0 or checkpoint_activations=false"
        )
    for block in found:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Give each process of a mesh its part of every weight, block by block (FSDP2)."""
    if isinstance(model, FSDPModule):
        return
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
