"""Initializers as values: what a tensor is drawn from, and which one a module used itself."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

from mupl.errors import ConfigError

KINDS = ("normal", "truncated_normal", "uniform", "constant")


@dataclass(frozen=True)
class Initializer:
    """A distribution that fills one tensor.

    Args:
        name: "normal", "truncated_normal", "uniform" (between mean -+ sqrt(3) std) or "constant".
        mean: of the distribution; the value of a constant.
        std: of the distribution, before any truncation.
        a, b: cut-offs of a truncated normal, in the units of the tensor.

    Example:
        >>> Initializer("normal", std=0.02).scaled(0.5)
        Initializer(name='normal', mean=0.0, std=0.01, a=-inf, b=inf)
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
        """The std as the rule tables use it: 1 for a constant, which has no scale of its own."""
        return self.std or 1.0

    def scaled(self, factor: float) -> "Initializer":
        """Return the initializer of `factor * tensor`, for factor > 0."""
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
    """Make an initializer of a dict such as `{"name": "uniform", "std": 0.02}`.

    Raises:
        ConfigError: on an unknown name or argument.
    """
    try:
        numbers = {key: float(value) for key, value in spec.items() if key != "name"}
        return Initializer(str(spec["name"]), **numbers)
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"init={dict(spec)}: needs a name ({', '.join(KINDS)}) and numbers for mean, std, a, b"
        ) from error


def scale_initializers_by_dimension(
    initializers: Iterable[Initializer], width_scale: float = 1.0, depth_scale: float = 1.0
) -> list[Initializer]:
    """Return initializers whose samples are multiplied by `width_scale * depth_scale`.

    Mean, std and cut-offs scale together, so a truncated normal keeps its shape. The arguments are
    unchanged. The rules do the same tensor by tensor, by the cell `init`; this is for initializers
    of one's own.
    """
    return [initializer.scaled(width_scale * depth_scale) for initializer in initializers]


def built_with_initializers(
    build: Callable[[], nn.Module],
) -> tuple[nn.Module, dict[str, Initializer | None]]:
    """Build a module and note what each parameter was drawn from, by watching the fills.

    Nothing is estimated from samples. Understood are normal, uniform, truncated normal (as
    `nn.init.trunc_normal_` makes it) and constant fills, and products of these with numbers;
    anything else, such as `orthogonal_`, gives None. The module is built on the CPU, because on
    the meta device `nn.init` leaves some fills out.
    """
    with torch.device("cpu"), _Watch() as watch:
        module = build()
    return module, {name: watch.initializer(p) for name, p in module.named_parameters()}


@contextmanager
def on_meta() -> Iterator[None]:
    """Make modules on the meta device, without random fills.

    There torch imports its compiler for a random fill, which takes seconds.
    """
    with torch.device("meta"), _Unfilled():
        yield


def build_on_meta(build: Callable[[], nn.Module]) -> tuple[nn.Module, bool]:
    """Build a module without memory for its parameters; say too whether that was possible.

    A constructor may read values of tensors, such as `x.item()` of a `torch.linspace`, which the
    meta device has not. Then only parameters are put there, each as soon as it is registered. One
    that reads values of parameters is built as it is.
    """
    for context in (on_meta, parameters_on_meta):
        try:
            with context():
                return build(), True
        except (NotImplementedError, RuntimeError, TypeError):  # torch's, of a value that is read
            continue
    return build(), False


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Make modules whose parameters are on the meta device, while other tensors have values."""

    def move(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return parameter
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(move)  # type: ignore[arg-type]
    try:
        with _Unfilled():
            yield
    finally:
        hook.remove()


class _Unfilled(TorchDispatchMode):
    """Leaves out random fills of tensors on the meta device."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch wraps `__torch_dispatch__`, for which it imports its compiler too

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        # A tensor that names another device is filled: `trunc_normal_` redraws values outside the
        # cut-offs, which would never end where nobody fills the memory.
        if func.overloadpacket.__name__ in ("normal_", "uniform_") and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


class _Watch(TorchDispatchMode):
    """Keeps, for each storage, the initializer that describes its present content."""

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[int, Initializer | None] = {}
        # A storage's address is its key in `_found`, so none may be freed and used again.
        self._alive: list[Tensor] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as in `_Unfilled`

    def initializer(self, tensor: Any) -> Initializer | None:
        """Return what a tensor is drawn from; None if that is not understood."""
        if not isinstance(tensor, Tensor):
            return None
        return self._found.get(_key(tensor))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        op = func.overloadpacket.__name__.rstrip("_")
        if op in ("lt", "gt"):
            self._cut(args[0], **{"a" if op == "lt" else "b": args[1]})
        elif isinstance(out, Tensor) and not func.is_view and _is_whole(out):
            self._alive.append(out)
            self._found[_key(out)] = self._after(op, args)
        return out

    def _cut(self, tensor: Tensor, **cutoff: float) -> None:
        """Note a cut-off: a normal that is compared with a bound is about to be truncated there.

        `nn.init.trunc_normal_` samples again where values lie outside.
        """
        found = self.initializer(tensor)
        if found and found.name in ("normal", "truncated_normal"):
            truncated = replace(found, name="truncated_normal", **cutoff)
            self._found[_key(tensor)] = truncated

    def _after(self, op: str, args: tuple) -> Initializer | None:
        """Return what describes the result of an operation."""
        numbers = [a for a in args if isinstance(a, int | float)]
        sources = [self.initializer(a) for a in args]
        if op == "copy":
            return sources[1]
        if op == "where":
            return sources[2]
        if sources and sources[0]:
            changed = _changed(op, sources[0], numbers)
            if changed:
                return changed
        return _filled(op, numbers)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _is_whole(tensor: Tensor) -> bool:
    """Say whether a tensor is all of its storage.

    A fill of a part, such as an embedding's padding row, leaves the rest as it was.
    """
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _filled(op: str, numbers: list[int | float]) -> Initializer | None:
    """Return what a fill draws from; None for an operation that is no fill."""
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
    return None


def _changed(op: str, before: Initializer, numbers: list[int | float]) -> Initializer | None:
    """Return what a tensor drawn from `before` is drawn from after an operation with numbers."""
    match op:
        case "_to_copy" | "clone":
            return before
        case "erfinv" if before.name == "uniform":  # erfinv(U(-1, 1)) ~ N(0, 1/2)
            return Initializer("truncated_normal", 0.0, math.sqrt(0.5))
        case "mul" if numbers:
            return before.scaled(numbers[0])
        case "div" if numbers:
            return before.scaled(1 / numbers[0])
        case "add" if numbers and numbers[0] == 0:
            return before
        case "clamp" if len(numbers) == 2:
            return replace(before, a=float(numbers[0]), b=float(numbers[1]))
    return None
