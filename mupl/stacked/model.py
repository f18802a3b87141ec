"""From S setups to one model, whose weights, numbers and outputs have a leading member axis."""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mupl.nn.dropout import Dropout, dropout_layers, seed_dropout
from mupl.nn.tensors import owner, parameters
from mupl.nn.unit_scaling import scales_gradients
from mupl.roles import MultiplierInfo
from mupl.stacked.rules import NotStackable
from mupl.training.setup import Setup

RANDOM_MODULES = (
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.RReLU,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
)
ONLY_DROPOUT = "a stack draws random numbers for each member by nn.Dropout only"


def check_stackable(member: Setup) -> None:
    """Raise NotStackable if the model multiplies gradients, is random, or shares its embedding.

    In the first case the gradient of a weight is not its multiplier times the gradient of the
    effective weight, which a stack relies on. In the second a member's random numbers would depend
    on the others, unless `mupl.nn.dropout.Dropout` draws them, which replaces `nn.Dropout`.
    """
    for name, info in member.infos.items():
        if isinstance(info, MultiplierInfo) and info.tensor is not None:
            raise NotStackable(f"model: {name} reads out by {info.tensor}, which a stack does not")
        if isinstance(info, MultiplierInfo) and info.insertion is not None:
            raise NotStackable(f"model: {name} is put into the model, which a stack does not do")
    for path, module in member.model.named_modules():
        if isinstance(module, RANDOM_MODULES) and getattr(module, "p", 1) > 0:
            raise NotStackable(f"model: {path} is {type(module).__name__}; {ONLY_DROPOUT}")
    if scales_gradients(member.model):
        raise NotStackable(
            "model: unit-scaled operations have multipliers of gradients, "
            "which a stack does not know"
        )


def sample_weights(
    members: Sequence[Setup],
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, nn.Parameter]:
    """Sample the effective weights, by name, (S, *shape).

    They are the values that each member's model starts from alone. They are drawn once for members
    that start from the same ones, such as many learning rates of one seed.
    """
    weights: dict[str, Tensor] = {}
    for name, w in parameters(members[0].model, members[0].scales).items():
        weights[name] = torch.empty(len(members), *w.shape, dtype=dtype, device=device)
    first_with: dict[Hashable, int] = {}
    for index, member in enumerate(members):
        first = first_with.setdefault(_start(member), index)
        if first < index:
            for of_members in weights.values():
                of_members[index] = of_members[first]
            continue
        with torch.device("cpu"):
            model = member.initial_model()
        for name, w in parameters(model, member.scales).items():
            mult = member.scales[name].mult
            weights[name][index] = w.detach().to(dtype) * mult
    return {name: nn.Parameter(w) for name, w in weights.items()}


def _start(member: Setup) -> Hashable:
    """What the initial weights of a member follow from."""
    values = []
    for name, scale in member.scales.items():
        values.append((name, scale.mult, scale.init, scale.init_factor, scale.own))
    return id(member.model), member.seed, tuple(values)


def member_numbers(members: Sequence[Setup]) -> dict[str, Any]:
    """The numbers of the model in which members may differ, by path.

    A module names them in its attribute `per_member`. Each is a tensor (S,) in float64 where
    members do differ, else the number.
    """
    numbers: dict[str, Any] = {}
    by_path = [dict(member.model.named_modules()) for member in members]
    for path, module in by_path[0].items():
        for name in getattr(module, "per_member", ()):
            if not hasattr(module, name):
                continue  # an argument of the constructor, which another module holds
            values = [getattr(modules[path], name) for modules in by_path]
            if name == "value" and path in members[0].scales:  # members may share a model
                values = [member.scales[path].mult for member in members]
            differ = any(value != values[0] for value in values)
            key = f"{path}.{name}" if path else name
            numbers[key] = torch.tensor(values, dtype=torch.float64) if differ else values[0]
    return numbers


def stacked_model(
    model: nn.Module,
    weights: dict[str, nn.Parameter],
    numbers: Mapping[str, Any],
    seeds: Sequence[int],
) -> nn.Module:
    """A module with outputs (S, ...), made of the model with stacked weights and numbers.

    seeds: of each member's dropout masks.
    """
    replace_dropout(model)
    seed_dropout(model, seeds)
    differing = set()
    for path in dropout_layers(model):
        differing |= {f"{path}.stream", f"{path}.calls"}
    for name, value in numbers.items():
        module, leaf = owner(model, name)
        delattr(module, leaf)
        if isinstance(value, Tensor):
            differing.add(name)
            module.register_buffer(leaf, value)
        else:
            setattr(module, leaf, value)
    if not getattr(model, "member_axis", False):
        return MappedModel(model, weights, differing)
    for name, weight in weights.items():
        module, leaf = owner(model, name)
        setattr(module, leaf, weight)
    return model


def replace_dropout(model: nn.Module) -> None:
    """Put our `Dropout` in the place of every `nn.Dropout` of a model."""
    replaced: dict[nn.Module, nn.Module] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) is nn.Dropout:
            parent, leaf = owner(model, path)
            setattr(parent, leaf, replaced.setdefault(module, Dropout(module.p)))


@contextmanager
def _mapped_attention(device: torch.device) -> Iterator[None]:
    """Leave out the kinds of attention that torch maps by a loop over members, with a warning."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


class MappedModel(nn.Module):
    """Any module, mapped by `torch.func.vmap` over the members' weights and buffers.

    Args:
        weights: by name, (S, *shape).
        stacked: names of the buffers that have a member axis already; each member gets a copy of
            the others.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: dict[str, nn.Parameter],
        stacked: Collection[str],
    ) -> None:
        super().__init__()
        self._weights = weights
        self._members = len(next(iter(weights.values())))
        for name, buffer in model.named_buffers():
            if name not in stacked:
                buffer = buffer.expand(self._members, *buffer.shape).clone()
            self.register_buffer(name.replace(".", "/"), buffer)
        # in a list, so that it is no submodule: its own parameters are placeholders and not trained
        self._template = [model.to("meta")]

    def forward(self, x: Tensor) -> Tensor:
        """x (G, N, ...), where G divides S -> (S, N, ...)."""
        if 1 < len(x) < self._members:
            x = x.repeat_interleave(self._members // len(x), 0)
        values: dict[str, Tensor] = dict(self._weights)
        for name, buffer in self.named_buffers():
            values[name.replace("/", ".")] = buffer
        try:
            with _mapped_attention(x.device):
                if len(x) == 1:
                    return torch.vmap(self._one, (0, None), randomness="error")(values, x[0])
                return torch.vmap(self._one, (0, 0), randomness="error")(values, x)
        except RuntimeError as error:
            if "randomness" in str(error):
                raise NotStackable(f"model: its forward is random; {ONLY_DROPOUT}") from error
            raise

    def _one(self, values: dict[str, Tensor], x: Tensor) -> Tensor:
        model = self._template[0].train(self.training)
        return torch.func.functional_call(model, values, (x,))
