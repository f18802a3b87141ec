"""Initializers as values: what a tensor is drawn from, how that scales, and which one a module used itself."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mupl.errors import ConfigError

KINDS = ("normal", "truncated_normal", "uniform", "constant")


@dataclass(frozen=True)
class Initializer:
    """Draws one tensor; `std` is that before truncation, `mean` is the value of a constant.

    `uniform` is U(mean - sqrt(3) std, mean + sqrt(3) std); `truncated_normal` has its cut-offs `a < b` in the
    units of the tensor.
    """

    name: str
    mean: float = 0.0
    std: float = 0.0
    a: float = -math.inf
    b: float = math.inf

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            raise ConfigError(f"init.name={self.name}: must be one of {', '.join(KINDS)}")
        if self.std < 0 or not math.isfinite(self.std):
            raise ConfigError(f"init.std={self.std}: must be a number >= 0")
        if not self.a < self.b:
            raise ConfigError(f"init.a={self.a}: must be below init.b={self.b}")

    @property
    def sigma(self) -> float:
        """The std as the rule tables use it: 1 for a tensor that starts constant, which has no scale of its own."""
        return self.std or 1.0

    def scaled(self, factor: float) -> "Initializer":
        """The initializer of `factor * tensor`, for factor > 0."""
        return replace(
            self,
            mean=self.mean * factor,
            std=self.std * factor,
            a=self.a * factor,
            b=self.b * factor,
        )

    @torch.no_grad()
    def __call__(self, tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fill `tensor` in place and return it."""
        if self.std == 0:
            return tensor.fill_(self.mean)
        if self.name == "uniform":
            bound = math.sqrt(3) * self.std
            return tensor.uniform_(self.mean - bound, self.mean + bound, generator=generator)
        if self.name == "truncated_normal":
            return nn.init.trunc_normal_(
                tensor, self.mean, self.std, self.a, self.b, generator=generator
            )
        return tensor.normal_(self.mean, self.std, generator=generator)


def create_initializer(spec: Mapping[str, Any]) -> Initializer:
    """An initializer from a dict, such as `{"name": "truncated_normal", "std": 0.02, "a": -0.04, "b": 0.04}`.

    Raises:
        ConfigError: on an unknown name or argument.
    """
    try:
        values = {key: str(value) if key == "name" else float(value) for key, value in spec.items()}
        return Initializer(**values)  # type: ignore[arg-type]
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"init={dict(spec)}: needs a name ({', '.join(KINDS)}) and numbers for mean, std, a, b"
        ) from error


def scale_initializers_by_dimension(
    initializers: Iterable[Initializer], width_scale: float = 1.0, depth_scale: float = 1.0
) -> list[Initializer]:
    """New initializers whose draws are multiplied by `width_scale * depth_scale`.

    Mean, std and cut-offs scale together, so a truncated normal keeps its shape. The arguments are unchanged.
    """
    return [initializer.scaled(width_scale * depth_scale) for initializer in initializers]


def built_with_initializers(
    build: Callable[[], nn.Module],
) -> tuple[nn.Module, dict[str, Initializer | None]]:
    """Build a module and note exactly what each parameter was drawn from, by watching the calls that fill it.

    Nothing is estimated from samples. Understood are normal, uniform, truncated normal (as `nn.init.trunc_normal_`
    makes it) and constant fills, and products of these with numbers; anything else (say `orthogonal_`) gives None.
    Build on the CPU: on the meta device `nn.init` leaves some fills out.
    """
    with torch.device("cpu"), _Watch() as watch:
        module = build()
    return module, {name: watch.initializer(p) for name, p in module.named_parameters()}


@contextmanager
def on_meta() -> Iterator[None]:
    """Make modules on the meta device, where random fills are left out: there torch imports its compiler for them."""
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # of `__torch_dispatch__`, to which end torch would import its compiler too

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return (
            args[0]
            if func.overloadpacket.__name__ in ("normal_", "uniform_")
            else func(*args, **(kwargs or {}))
        )


class _Watch(TorchDispatchMode):
    """Keeps, for each storage, the initializer that describes its present content."""

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[int, Initializer | None] = {}
        self._alive: list[
            Tensor
        ] = []  # a storage's address is its key: none may be freed and used again

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as above

    def initializer(self, tensor: Tensor) -> Initializer | None:
        return self._found.get(tensor.untyped_storage()._cdata)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        op = func.overloadpacket.__name__.rstrip("_")
        if op in ("lt", "gt"):
            self._cut(args[0], **{"a" if op == "lt" else "b": args[1]})
        elif isinstance(out, Tensor) and not func.is_view:
            whole = out.numel() * out.element_size() == out.untyped_storage().nbytes()
            if whole:  # a fill of a part (an embedding's padding row) leaves the rest as it was
                self._alive.append(out)
                self._found[out.untyped_storage()._cdata] = self._after(op, args)
        return out

    def _cut(self, tensor: Tensor, **cutoff: float) -> None:
        """A normal compared with a bound is being drawn again where it lies outside: a truncated normal."""
        found = self.initializer(tensor)
        if found and found.name in ("normal", "truncated_normal"):
            self._found[tensor.untyped_storage()._cdata] = replace(
                found, name="truncated_normal", **cutoff
            )

    def _after(self, op: str, args: tuple) -> Initializer | None:
        numbers = [a for a in args if isinstance(a, int | float)]
        first = self.initializer(args[0]) if args and isinstance(args[0], Tensor) else None
        match op:
            case "normal" | "randn":
                mean, std = numbers + [0.0, 1.0][len(numbers) :]
                return Initializer("normal", mean, std)
            case "uniform":
                low, high = numbers if len(numbers) == 2 else (0.0, 1.0)
                return Initializer("uniform", (low + high) / 2, (high - low) / math.sqrt(12))
            case "zero" | "zeros" | "zeros_like" | "new_zeros":
                return Initializer("constant", 0.0)
            case "ones" | "ones_like" | "new_ones":
                return Initializer("constant", 1.0)
            case "fill" | "full" | "full_like" if numbers:
                return Initializer("constant", float(numbers[-1]))
            case "erfinv" if first and first.name == "uniform":
                return Initializer(
                    "truncated_normal", 0.0, math.sqrt(0.5)
                )  # erfinv(U(-1, 1)) ~ N(0, 1/2)
            case "mul" if first and numbers:
                return first.scaled(numbers[0])
            case "div" if first and numbers:
                return first.scaled(1 / numbers[0])
            case "add" if first and numbers and numbers[0] == 0:
                return first
            case "clamp" if first and len(numbers) == 2:
                return replace(first, a=float(numbers[0]), b=float(numbers[1]))
            case "copy":
                return self.initializer(args[1])
            case "where":
                return self.initializer(args[2])
            case "_to_copy" | "clone":
                return first
        return None
