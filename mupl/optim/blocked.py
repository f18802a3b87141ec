"""SOAP and full Shampoo in blocks, whose updates may have the norm of another method's.

Distributed Shampoo (Shi et al. 2023, arXiv 2309.06497) preconditions blocks of a matrix each alone,
and gives an update the norm that another method's would have (grafting; Anil et al. 2020, arXiv
2002.09018). A single run and a stack call the same functions, of tensors (S, *shape).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mupl.errors import ConfigError
from mupl.nn.spectral_norm import positive
from mupl.optim.base import DirectionOptimizer
from mupl.optim.blocks import tiles
from mupl.optim.preconditioned import SHAMPOO, SOAP, Preconditioner, Shapes, adam_corrections
from mupl.optim.registry import register
from mupl.optim.shampoo import OF_GRAFT, shampoo_rules
from mupl.optim.soap import soap_rules
from mupl.parametrization.update_kinds import OptimizerRules, UpdateKind
from mupl.roles import Info, Role

Tensors = Mapping[str, Tensor]
Options = Mapping[str, Any]


def _adam(g: Tensor, state: Tensors, eps: Tensor, step: Tensors) -> Tensor:
    mean = state["graft_avg"].lerp_(g, step["1-beta1"])
    return mean * step["1/correction1"] / _root(g, state, eps, step)


def _rmsprop(g: Tensor, state: Tensors, eps: Tensor, step: Tensors) -> Tensor:
    return g / _root(g, state, eps, step)


def _root(g: Tensor, state: Tensors, eps: Tensor, step: Tensors) -> Tensor:
    square = state["graft_avg_sq"].lerp_(g.square(), step["1-beta2"])
    return square.sqrt() * step["rsqrt_correction2"] + eps


def _sgd(g: Tensor, state: Tensors, eps: Tensor, step: Tensors) -> Tensor:
    return g


class Graft(NamedTuple):
    """A method whose steps have the norm that is wanted.

    Attributes:
        direction: `(G, state, eps, step) -> ` the step of G (S, *shape) before lr.
        buffers: names of the tensors (S, *shape) that it keeps.
    """

    direction: Callable[..., Tensor]
    buffers: tuple[str, ...] = ()


MATRIX_EPS = 1e-12  # so small that an update does not feel the gradient's scale
GRAFTS = {
    "adam": Graft(_adam, ("graft_avg", "graft_avg_sq")),
    "rmsprop": Graft(_rmsprop, ("graft_avg_sq",)),
    "sgd": Graft(_sgd),
}


def check_blocks(block_size: Any, graft: Any) -> None:
    """Refuse what is no size of blocks, and no method that there is.

    Raises:
        ConfigError: naming the option.
    """
    if block_size is not None and (type(block_size) is not int or block_size < 1):
        raise ConfigError(
            f"optimizer.block_size={block_size}: must be a whole number >= 1, or null for no blocks"
        )
    if graft is not None and graft not in GRAFTS:
        raise ConfigError(f"optimizer.graft={graft}: must be null or one of {', '.join(GRAFTS)}")


def blocked_matrices(method: Preconditioner, shape: Sequence[int], options: Options) -> Shapes:
    """Return names and shapes of the matrices that are kept of one tensor, by kind of block.

    `gram0.2` is (count, n, n), of the blocks of `tiles(shape, block_size)[2]`.
    """
    shapes: Shapes = {}
    for i, tile in enumerate(tiles(shape, options["block_size"])):
        for name, of_block in method.matrices(tile.shape, options).items():
            shapes[f"{name}.{i}"] = (tile.count, *of_block)
    return shapes


def buffers_of(method: Preconditioner, options: Options) -> tuple[str, ...]:
    """Return the names of the tensors of a weight's shape that are kept."""
    graft = options["graft"]
    return (*method.buffers, *(GRAFTS[graft].buffers if graft else ()))


def blocked_step(method: Preconditioner, options: Options, k: int) -> dict[str, float]:
    """Return the numbers of update k = 0, 1, ...; the grafted method's begin with "graft:"."""
    numbers = method.step_scalars(options, k)
    if options["graft"]:
        for name, value in adam_corrections(options, k).items():
            numbers[f"graft:{name}"] = value
    return numbers


def blocked_direction(
    method: Preconditioner,
    g: Tensor,
    state: Tensors,
    scalars: Tensors,
    step: Tensors,
    *,
    block_size: int | None,
    graft: str | None,
    **host_arguments: Any,
) -> Tensor:
    """Return the direction of gradients (S, *shape), and change their state.

    Each block of at most `block_size` along each dimension is preconditioned alone. With `graft`
    the direction U of a tensor becomes `U |V|_F / |U|_F`, where V is the step of that method; 0
    where U is 0.

    Args:
        scalars, step: one number a member, (S, 1, ...), with as many dimensions as g. The scalars
            are "eps", for the grafted method and for SOAP, and "matrix_eps".
    """
    u = torch.zeros_like(g)
    for i, tile in enumerate(tiles(g.shape[1:], block_size)):
        own = {name: tile.take(state[name]) for name in method.buffers}
        kept = dict(own)
        for name in state:
            matrix, _, number = name.partition(".")
            if number == str(i):
                kept[matrix] = state[name].flatten(0, 1)
        of_block = {name: x.repeat_interleave(tile.count, 0) for name, x in step.items()}
        eps_of_block = scalars[method.eps].repeat_interleave(tile.count, 0)
        blocks = method.direction(tile.take(g), kept, eps_of_block, of_block, **host_arguments)
        tile.put(u, blocks)
        for name, x in own.items():
            tile.put(state[name], x)
    if graft is None:
        return u
    numbers = {}
    for name, x in step.items():
        if name.startswith("graft:"):
            numbers[name.removeprefix("graft:")] = x
    wanted = _norms(GRAFTS[graft].direction(g, state, scalars["eps"], numbers))
    return u / positive(_norms(u)) * wanted  # in this order 0 stays 0


def _norms(x: Tensor) -> Tensor:
    """Return the Frobenius norms of tensors (S, *shape), as (S, 1, ...)."""
    norms = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norms.view(-1, *[1] * (x.dim() - 1))


class Blocked(DirectionOptimizer):
    """A preconditioner in blocks, with `w <- w - lr (weight_decay w + U)` (`blocked_direction`)."""

    method: ClassVar[Preconditioner]

    def update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for w in weights:
            assert w.grad is not None
            shape = w.shape[group.get("batch_dims", 0) :]
            gradients = w.grad.reshape(-1, *shape)  # of each matrix that w holds
            copies = len(gradients)
            state = self.state[w]
            if not state:
                state["step"] = 0
                shapes = dict.fromkeys(buffers_of(self.method, group), tuple(shape))
                shapes |= blocked_matrices(self.method, shape, group)
                for name, of_copy in shapes.items():
                    state[name] = w.new_zeros(copies, *of_copy)
            k = state["step"]
            state["step"] = k + 1
            ones = [copies] + [1] * len(shape)
            numbers = {}
            for name, value in blocked_step(self.method, group, k).items():
                numbers[name] = w.new_full(ones, value)
            scalars = {}
            for name in ("eps", self.method.eps):
                scalars[name] = w.new_full(ones, group[name])
            tensors = {name: x for name, x in state.items() if name != "step"}
            u = blocked_direction(
                self.method,
                gradients,
                tensors,
                scalars,
                numbers,
                block_size=group["block_size"],
                graft=group["graft"],
                **self.method.host_arguments(group, k),
            )
            w.mul_(1 - group["lr"] * group["weight_decay"])
            w.add_(u.view_as(w), alpha=-group["lr"])


@register("blocked_soap")
class BlockedSOAP(Blocked):
    """SOAP (Vyas et al. 2024) in blocks, grafted or not.

    Its first step moves nothing. A side in blocks of a fixed size counts as one that is not
    preconditioned: of few directions each block makes an update of norm 1, and there are as many
    blocks as the side grows, so that nothing is gained by the eigenbasis (Qiu et al. 2025, arXiv
    2512.05620). Then a grafted update follows the rule of the method whose norm it has. Without
    blocks it has no rule: few directions would move activations by lr * fan_in, and noise, which
    fills the eigenbasis, by lr * fan_in^1/2; what is measured lies between (docs/optimizers.md).

    Args:
        params: param groups, as `mupl.optim.groups.param_groups` makes them.
        betas, eps: Adam's, in the eigenbasis; and of the method whose norm is taken.
        precondition_frequency: steps between eigenbases.
        max_precondition_dim: sides of blocks that are larger are left as they are.
        block_size: the largest side of a block; None: one block a tensor.
        graft: "adam", "rmsprop" or "sgd", whose norm an update of a tensor gets; None: its own.

    Raises:
        ConfigError: on a size or a method that there is not, and on a grafted matrix whose growing
            sides are not in blocks.

    Example:
        >>> import mupl
        >>> build = partial(mupl.models.MLP, 64, 10)
        >>> soap = partial(BlockedSOAP, block_size=32)
        >>> setup = mupl.Setup(build, 256, base_width=64, optimizer=soap, lr=1e-3)
        >>> setup.scales["layers.1.weight"].update_kind, setup.scales["layers.1.weight"].lr
        ('adam', 0.00025)
    """

    method = SOAP

    @classmethod
    def rules(
        cls,
        precondition_frequency: int = 10,
        max_precondition_dim: int = 10000,
        block_size: int | None = None,
        graft: str | None = None,
        **_: Any,
    ) -> OptimizerRules:
        check_blocks(block_size, graft)
        largest = min(max_precondition_dim, block_size or max_precondition_dim)
        rules = soap_rules(largest, precondition_frequency)
        return rules if graft is None else grafted(rules, graft)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        precondition_frequency: int = 10,
        max_precondition_dim: int = 10000,
        block_size: int | None = None,
        graft: str | None = None,
    ) -> None:
        self.rules(precondition_frequency, max_precondition_dim, block_size, graft)
        super().__init__(
            params,
            lr,
            weight_decay,
            betas=betas,
            eps=eps,
            precondition_frequency=precondition_frequency,
            max_precondition_dim=max_precondition_dim,
            block_size=block_size,
            graft=graft,
        )


@register("blocked_shampoo")
class BlockedShampoo(Blocked):
    """Full Shampoo (Gupta et al. 2018) in blocks, grafted or not.

    An update in one block has singular values of size 1. Of few directions each of the blocks of a
    fixed size makes such an update, so that the spectral norm grows as the root of the number of
    blocks along each side. So lr falls by that root: it is `orthogonal`'s with no side in
    blocks, of `rotated_in` or `rotated_out` with only the outputs' or only the inputs' in blocks,
    and of `adam` with both (Qiu et al. 2025, arXiv 2512.05620). A grafted update has the norm of
    Adam's, or SGD's, in few directions as theirs, and their rule (`mupl.optim.shampoo`).

    Args:
        params: param groups, as `mupl.optim.groups.param_groups` makes them.
        betas, eps: of the method whose norm is taken.
        matrix_eps: of the sums of g g^T, where a param group has none.
        preconditioning_compute_steps: steps between powers of the sums.
        block_size, graft: as in `BlockedSOAP`; graft may be "sgd" too.

    Raises:
        ConfigError: on a size or a method that there is not.

    Example:
        >>> kinds = [BlockedShampoo.rules(graft=graft).kind_of for graft in (None, "adam", "sgd")]
        >>> from torch import nn
        >>> import mupl
        >>> info = mupl.describe(lambda width: nn.Linear(width, width), 64, 16)["weight"]
        >>> [str(kind_of(info)) for kind_of in kinds]
        ['whitened', 'adam', 'sgd']
    """

    method = SHAMPOO

    @classmethod
    def rules(
        cls,
        matrix_eps: float = MATRIX_EPS,
        block_size: int | None = None,
        graft: str | None = None,
        **_: Any,
    ) -> OptimizerRules:
        check_blocks(block_size, graft)
        return shampoo_rules(matrix_eps, block_size, graft)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        matrix_eps: float = MATRIX_EPS,
        preconditioning_compute_steps: int = 1,
        block_size: int | None = None,
        graft: str | None = None,
    ) -> None:
        self.rules(matrix_eps, block_size, graft)
        super().__init__(
            params,
            lr,
            weight_decay,
            betas=betas,
            eps=eps,
            matrix_eps=matrix_eps,
            preconditioning_compute_steps=preconditioning_compute_steps,
            block_size=block_size,
            graft=graft,
        )


def grafted(rules: OptimizerRules, graft: str) -> OptimizerRules:
    """Return SOAP's rules, but for the norm of updates, which another method has."""
    return replace(rules, kind_of=partial(_kind_of_soap, rules, graft), rotations=None)


def _kind_of_soap(rules: OptimizerRules, graft: str, info: Info) -> str:
    fan_in = info.role in (Role.HIDDEN, Role.OUTPUT)
    fan_out = info.role is Role.HIDDEN
    kind = rules.kind_of(info)
    is_whole = {UpdateKind.ROTATED_IN: fan_in, UpdateKind.ROTATED_OUT: fan_out}
    if is_whole.get(UpdateKind(kind), False):
        shape = " x ".join(map(str, info.shape))
        raise ConfigError(
            f"optimizer.graft={graft}: no rule carries lr over width for a tensor {shape} of which "
            "SOAP takes a growing side as one block; say an optimizer.block_size below its sides "
            "at the base width too, or graft=null"
        )
    return OF_GRAFT[graft]
