"""Initializers as values: what a tensor is drawn from, and which one a module used itself."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

from mupl.errors import ConfigError

KINDS = ("normal", "truncated_normal", "uniform", "constant")
OWN = "own"  # values of a module that are none of these


@dataclass(frozen=True)
class Initializer:
    """A distribution that fills one tensor.

    Args:
        name: "normal", "truncated_normal", "uniform" (between mean -+ sqrt(3) std) or "constant".
            "own" stands for values that a module makes in another way, which cannot be drawn.
        mean: of the distribution; the value of a constant.
        std: of the distribution, before any truncation; the root mean square of own values.
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
        if self.name not in (*KINDS, OWN):
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
        """Fill `tensor` in place and return it.

        Raises:
            ConfigError: for values that are a module's own.
        """
        if self.name == OWN:
            raise ConfigError("init.name=own: values that a module makes itself cannot be drawn")
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
        if spec["name"] == OWN:
            raise ConfigError(f"init.name={OWN}: must be one of {', '.join(KINDS)}")
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


@dataclass(frozen=True)
class Fill:
    """How a tensor came by its values.

    Args:
        initializer: what it was drawn from; None where the calls that filled it are not understood.
        random: whether random numbers are in it. If not it holds values such as loaded ones.
    """

    initializer: Initializer | None
    random: bool


def build_watched(build: Callable[[], nn.Module]) -> tuple[nn.Module, dict[str, Fill]]:
    """Build a module on the CPU and note how each parameter was filled, by watching the calls.

    Nothing is estimated from samples. Understood are normal, uniform, truncated normal (as
    `nn.init.trunc_normal_` makes it) and constant fills, and products of these with numbers; and
    zeros in a part of such a tensor, as in the padding row of an embedding. A tensor that is filled
    in parts, or by anything else, such as `orthogonal_`, has no initializer.
    """
    with torch.device("cpu"), _Watch() as watch:
        module = checked_module(build())
    return module, watch.fills(module)


def checked_module(built: Any) -> nn.Module:
    """Return what `build` returned, if it is a module."""
    if not isinstance(built, nn.Module):
        raise ConfigError(f"build: must return an nn.Module, not a {type(built).__name__}")
    return built


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new floating-point tensors of `dtype`, as `torch.set_default_dtype` does."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def on_meta() -> Iterator[None]:
    """Make modules on the meta device, without random fills.

    There torch imports its compiler for a random fill, which takes seconds.
    """
    with torch.device("meta"), _Unfilled():
        yield


def build_on_meta(
    build: Callable[[], nn.Module],
) -> tuple[nn.Module, dict[str, Fill], bool]:
    """Build a module without memory for its parameters, and say whether that was possible.

    Parameters are put on the meta device, each as soon as it is registered, and their fills are
    watched, but for those that torch leaves out there (`trunc_normal_`). Other tensors have values,
    which a constructor may read, such as `x.item()` of a `torch.linspace`. A constructor that reads
    single values of parameters is given ones, and no fill is known then, since these may follow
    from what was read. One that needs more builds its parameters as they are.
    """
    numbers = _StandInNumbers()
    try:
        with warnings.catch_warnings(), parameters_on_meta(), numbers, _Watch() as watch:
            warnings.simplefilter("ignore")  # such as that copying to the meta device does nothing
            module = build()
    except Exception as error:
        is_read = isinstance(error, NotImplementedError | RuntimeError | TypeError)  # torch's own
        if numbers.count or is_read:
            return build(), {}, False
        raise
    return module, {} if numbers.count else watch.fills(module), True


@contextmanager
def watched_fills() -> Iterator["_Watch"]:
    """Watch how tensors are filled, without random fills on the meta device."""
    with _Unfilled(), _Watch() as watch:
        yield watch


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Make modules whose parameters are on the meta device, while other tensors have values."""

    def move(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return parameter
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    # Where the default device is meta, transformers leaves out its own fills. A device that is
    # named where it is the default one already would go to `torch.eye(out=...)`.
    is_default = torch.get_default_device().type == "cpu"
    on_cpu = nullcontext() if is_default else torch.device("cpu")
    hook = register_module_parameter_registration_hook(move)  # type: ignore[arg-type]
    try:
        with on_cpu, _Unfilled():
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


class _StandInNumbers(TorchDispatchMode):
    """Reads 1 (or true) where a single value of a tensor on the meta device is read."""

    COMPARED = ("equal", "allclose", "is_nonzero")  # give a bool of Python
    MOST = 1000  # a loop that waits for another value must end

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as in `_Unfilled`

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name not in ("_local_scalar_dense", *self.COMPARED) or not args[0].is_meta:
            return func(*args, **(kwargs or {}))
        self.count += 1
        if self.count > self.MOST:
            raise RuntimeError(f"{self.MOST} values of parameters were read")
        if name in self.COMPARED:
            return True
        return torch.ones((), dtype=args[0].dtype, device="cpu").item()


class _Watch(TorchDispatchMode):
    """Keeps, for each storage, how its present content came about."""

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[int, Fill] = {}
        # A storage's address is its key in `_found`. A weak reference frees its memory, but keeps
        # the address from being used again.
        self._alive: list[StorageWeakRef] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as in `_Unfilled`

    def fills(self, module: nn.Module) -> dict[str, Fill]:
        """Return how each parameter was filled, by any of its names."""
        named = module.named_parameters(remove_duplicate=False)
        return {name: self._fill(parameter) for name, parameter in named}

    def _fill(self, tensor: Tensor) -> Fill:
        """Return how a tensor was filled: by values from elsewhere if nothing was seen."""
        return self._found.get(_key(tensor), GIVEN)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        op = name.rstrip("_")
        if op in ("lt", "gt"):
            self._cut(args[0], **{"a" if op == "lt" else "b": args[1]})
            return out
        given = [value for key, value in kwargs.items() if key != "out"]
        sources = _tensors([*args, *given])
        if name == "normal" and sources:  # with a tensor of means or stds
            op = "normal of tensors"
        in_place = name.endswith("_") or "out" in kwargs
        is_random = torch.Tag.nondeterministic_seeded in func.tags
        viewed = set() if in_place else set(map(_key, sources))
        for result in _tensors([out]):
            if _key(result) not in viewed:
                self._note(op, args, sources, result, is_random)
        return out

    def _note(
        self, op: str, args: tuple, sources: list[Tensor], result: Tensor, is_random: bool
    ) -> None:
        """Note what an operation with some arguments has put into its result."""
        initializer = self._after(op, args)
        if initializer is not None:
            fill = Fill(initializer, random=initializer.std > 0)
        elif op == "copy":
            fill = self._fill(sources[1])
        else:
            fill = Fill(None, is_random or any(self._fill(source).random for source in sources))
        self._alive.append(StorageWeakRef(result.untyped_storage()))
        if not _is_whole(result):
            fill = _partly_filled(self._found.get(_key(result)), fill)
        self._found[_key(result)] = fill

    def _cut(self, tensor: Tensor, **cutoff: float) -> None:
        """Note a cut-off: a normal that is compared with a bound is about to be truncated there.

        `nn.init.trunc_normal_` samples again where values lie outside.
        """
        found = self._fill(tensor).initializer
        if found and found.name in ("normal", "truncated_normal"):
            truncated = replace(found, name="truncated_normal", **cutoff)
            self._found[_key(tensor)] = Fill(truncated, random=True)

    def _after(self, op: str, args: tuple) -> Initializer | None:
        """Return the initializer of the result of an operation, if it has one."""
        numbers = [a for a in args if isinstance(a, int | float)]
        source_of = {"copy": 1, "where": 2}.get(op, 0)
        source = None
        if len(args) > source_of and isinstance(args[source_of], Tensor):
            source = self._fill(args[source_of]).initializer
        if op in ("copy", "where"):
            return source
        if source is not None:
            changed = _changed(op, source, numbers)
            if changed:
                return changed
        return _filled(op, numbers)


GIVEN = Fill(None, random=False)


def _partly_filled(before: Fill | None, part: Fill) -> Fill:
    """Return how a tensor is filled of which a part has been filled anew."""
    zeros = Initializer("constant", 0.0)
    if before is not None and part.initializer in (zeros, before.initializer) and not part.random:
        return before  # such as an embedding's padding row: the rest is as it was
    return Fill(None, part.random or (before is not None and before.random))


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among values, and in lists of them."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _is_whole(tensor: Tensor) -> bool:
    """Say whether a tensor is all of its storage."""
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
