"""What is trained and how: everything of a training but its loop."""

import copy
import inspect
import warnings
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Self

import torch
from torch import nn
from torch.optim import Optimizer

from mupl.errors import ConfigError
from mupl.initializers import default_dtype
from mupl.names import some_of
from mupl.nn.dropout import Dropout
from mupl.nn.fold import folded
from mupl.nn.initialize import as_seed, initialize_
from mupl.nn.tensors import parameters
from mupl.nn.unit_scaling import has_unit_readout, scales_gradients
from mupl.optim.groups import build_optimizer
from mupl.optim.registry import (
    OptimizerLike,
    check_options,
    optimizer_rules,
    resolve,
    unwrapped,
)
from mupl.optim.scaling import scale
from mupl.optim.schedules import Schedule, as_schedule
from mupl.parametrization.exponents import Expected, Seen, expected_exponents
from mupl.parametrization.hyperparameters import decay_exponent
from mupl.parametrization.per_module import Tune
from mupl.parametrization.rules import Parametrization, as_parametrization
from mupl.parametrization.scales import TensorTable, scale_rows
from mupl.parametrization.tables import UNIT_SCALED
from mupl.parametrization.update_kinds import OptimizerRules, UpdateKind, kind_at_base
from mupl.roles import (
    Base,
    Build,
    MultiplierRole,
    ParamInfo,
    Role,
    Width,
    describe,
    multipliers,
)
from mupl.stats.readout_norm import readout_norm, readout_of
from mupl.training.losses import CheckedLoss, Loss, cross_entropy

FELT_EPS = 0.1  # of a gradient's mean |entry|: an eps above it makes updates follow the gradient


def _on_cpu(device: torch.device) -> AbstractContextManager[Any]:
    """Build on the CPU, whose generator gives one network on every device; or without memory."""
    return nullcontext() if device.type == "meta" else torch.device("cpu")


class Setup:
    """A model of one width, with the hyperparameters that follow from those tuned at `base_width`.

    It describes `build(width)`, scales the hyperparameters, and initialises the model. Train it in
    any loop with `setup.optimizer()`, or by Lightning with `mupl.TrainingModule(setup)`.

    Args:
        build: `width -> nn.Module`, any module. It is also called at the base width and at twice
            that, to find out which dimensions grow. Or a model that is there already, beside
            `base`: it is initialised in place.
        width: whatever `build` takes: a number, a list of one width a layer, or a config object.
        base_width: where `lr`, `eps` and `weight_decay` were tuned. There every parametrization
            but u-muP's is the standard one.
        wider, base, delta: see `mupl.describe`. `base` takes the place of `base_width`: a base
            model, or what `mupl.shapes` returned or saved.
        lr: learning rate at the base width.
        parametrization: a name (`mupl.parametrizations()` lists them) or a `Parametrization`.
        optimizer: a name, a torch optimizer class, or a `functools.partial` of one.
        update_kind: how the optimizer's updates scale ("sgd", "adam", "orthogonal", ...); needed
            only for an optimizer that mupl does not know, or in place of what it knows.
        eps: Adam's epsilon at the base width.
        weight_decay: weight decay at the base width.
        weight_decay_mode: "decoupled" keeps lr * weight_decay constant in width, "independent"
            also in lr; "coupled" leaves weight_decay alone. A number p has lr * weight_decay fall
            as m_in^-p.
        tune: factors by module, such as `{"hidden": {"lr": 2}}`; see `mupl.scale`.
        depth, base_depth: number of blocks, for `build(width, depth=depth)`, and the number where
            `lr` was tuned. A parametrization with rules in depth needs them;
            `get_parametrization(name).width_only()` has none.
        schedule: multiplies all learning rates in the course of training.
        loss: `(model output, target) -> scalar tensor`; see `mupl.training.losses.CheckedLoss`.
        roles, init, keep, residual: see `mupl.describe`.
        seed: of the initial weights, by torch's generator on the CPU while the model is built; 0
            if none is given. Own values of a model that is there already are drawn: there it is
            for `init` and for the masks of `mupl.nn.dropout.Dropout`.

    Attributes:
        model: `build(width)`, or the model itself, initialised.
        infos: what each tensor is, by name (`mupl.describe`).
        scales: what each tensor got, by name (`mupl.scale`).
        warnings: sentences on what was found in the model that the rules do not reach. Each is a
            Python warning too.

    Under `torch.device("meta")` the model holds no weights: so the members of a stack are set up.

    Raises:
        ConfigError: on bad values, a tensor that cannot be classified, a seed that would change
            nothing, or a parametrization that the model or the optimizer does not fit.

    Example:
        >>> from torch import nn
        >>> def build(width):
        ...     return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
        >>> setup = Setup(build, width=512, base_width=128, optimizer="adamw", lr=1e-3)
        >>> setup
        Setup(parametrization=mup, optimizer=AdamW, width=512, base_width=128, lr=0.001, 4 tensors)
        >>> setup.scales["2.weight"].mult
        0.25
        >>> [group["lr"] for group in setup.optimizer().param_groups]
        [0.001, 0.001]
        >>> model = build(512)
        >>> Setup(model, base=build(128), delta=build(256), lr=1e-3).model is model
        True
    """

    def __init__(
        self,
        build: Build | nn.Module,
        width: Width = None,
        *,
        lr: float,
        base_width: Width = None,
        wider: Width = None,
        base: Base | None = None,
        delta: nn.Module | None = None,
        parametrization: str | Parametrization = "mup",
        optimizer: OptimizerLike = "adamw",
        update_kind: UpdateKind | str | OptimizerRules | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        weight_decay_mode: str | float = "decoupled",
        tune: Tune | None = None,
        depth: int | None = None,
        base_depth: int | None = None,
        schedule: Schedule | None = None,
        loss: Loss = cross_entropy,
        roles: Mapping[str, str] | None = None,
        init: Mapping[str, Mapping[str, Any]] | None = None,
        keep: Collection[str] = (),
        residual: Collection[str] | None = None,
        seed: int | None = None,
    ) -> None:
        self.parametrization = as_parametrization(parametrization)
        self.width = width
        self.base_width = base_width
        self._live = build if isinstance(build, nn.Module) else None
        self.optimizer_class = resolve(optimizer)
        check_options(self.optimizer_class, lr=lr, eps=eps, weight_decay=weight_decay)
        self.optimizer_rules = optimizer_rules(self.optimizer_class, update_kind)
        self.schedule = as_schedule(schedule)
        self.loss = CheckedLoss(loss)
        self.seed = 0 if seed is None else as_seed(seed)
        given: dict[str, Any] = {"roles": roles, "init": init, "keep": keep, "residual": residual}
        given |= {"wider": wider, "base": base, "delta": delta}
        self.infos = describe(build, width, base_width, depth=depth, base_depth=base_depth, **given)
        self.build = partial(build, width) if depth is None else partial(build, width, depth=depth)
        self._check_seed(seed)
        self._dtype = torch.get_default_dtype()
        self._scale(lr, weight_decay_mode, eps=eps, weight_decay=weight_decay, tune=tune)
        self._check_depth(base_depth)
        self.warnings = self._warnings()
        self.model = self.initial_model()
        self._check_unit_scaling()

    def initial_model(self) -> nn.Module:
        """Build the model as training starts from it: on the CPU, then moved to torch's device.

        Under `torch.device("meta")` it holds no weights. A model that is there already is
        initialised in place, where it is.
        """
        if self._live is not None:
            self._note_stock_values(self._live)
            return initialize_(self._live, self.scales, seed=self.seed)
        device = torch.get_default_device()
        with default_dtype(self._dtype):
            with torch.random.fork_rng(devices=[]), _on_cpu(device):
                torch.default_generator.manual_seed(self.seed)
                model = self.build()
            self._note_stock_values(model)
            initialize_(model, self.scales, seed=self.seed)
        return model if device.type == "meta" else model.to(device)

    def _note_stock_values(self, model: nn.Module) -> None:
        """Note the values of the model's own multipliers, which folding gives back to it."""
        self._stock_values = {name: found.value for name, found in multipliers(model).items()}

    def _check_depth(self, base_depth: int | None) -> None:
        """Refuse a table with rules in depth where no depth is known."""
        in_depth = base_depth is not None or any(info.in_block for info in self.infos.values())
        if self.parametrization.has_depth and not in_depth:
            raise ConfigError(
                f"base_depth=null: parametrization={self.parametrization.name} scales with depth; "
                "say the depth where lr is right, or base_depth=depth for rules in width alone"
            )

    def _check_seed(self, seed: int | None) -> None:
        """Refuse a seed by which nothing is drawn, as the values of a model are drawn already."""
        if seed is None or self._live is None:
            return
        is_drawn = any(isinstance(i, ParamInfo) and i.own is None for i in self.infos.values())
        if not is_drawn and not any(isinstance(layer, Dropout) for layer in self._live.modules()):
            raise ConfigError(
                f"seed={seed}: would change nothing, since the model has drawn its values; "
                "call torch.manual_seed before it is built"
            )

    def _warnings(self) -> list[str]:
        """Say what was found that the rules do not reach."""
        found = list(self.infos.warnings)
        rows = {info.row for info in self.infos.values()}
        deeper = any(info.m_L != 1 for info in self.infos.values())
        if deeper and self.parametrization.has_depth and MultiplierRole.RESIDUAL not in rows:
            found.append(
                f"parametrization={self.parametrization.name}: the model has no "
                "mupl.nn.multipliers.Residual and none of its residual branches was found, so they "
                "are not scaled with depth; say residual=[globs on the modules that return them]"
            )
        found += self._changes_of_kind() + self._blind_first_step() + self._zero_eps()
        for sentence in found:
            warnings.warn(sentence, stacklevel=3)
        return found

    def _changes_of_kind(self) -> list[str]:
        """Say of which tensors the optimizer's updates scale otherwise than at the base width."""
        changed = {}
        for name, info in self.infos.items():
            if not isinstance(info, ParamInfo):
                continue
            before = kind_at_base(self.optimizer_rules, info)
            now = self.scales[name].update_kind
            if before != now:
                changed[name] = f"{before} at the base width and {now} here"
        if not changed:
            return []
        first = next(iter(changed))
        return [
            f"optimizer: updates of {some_of(list(changed))} are of another kind than at the base "
            f"width ({first!r}: {changed[first]}), so that their lr does not carry over; a "
            "max_precondition_dim or block_size above all sizes, or below all, changes no kind"
        ]

    def _blind_first_step(self) -> list[str]:
        """Say that an optimizer cannot learn what it looks for in the first gradient."""
        tensors = [info for info in self.infos.values() if isinstance(info, ParamInfo)]
        readouts = [info for info in tensors if info.role is Role.OUTPUT and len(info.shape) > 1]
        at_zero = [info.init.std == info.init.mean == 0 for info in readouts]
        if not self.optimizer_rules.idle_steps or not at_zero or not all(at_zero):
            return []
        return [
            "optimizer: finds its first basis by the first gradient, which is 0 before a readout "
            "that starts at 0. Until it looks again it trains hidden matrices as Adam would, with "
            "a lr that is too large by the root of the width; start the readout at random "
            "(model.zero_readout=false)"
        ]

    def _zero_eps(self) -> list[str]:
        """Say that an optimizer that adds eps to what it divides by may divide by 0.

        In most it is the root of a mean of squares; Shampoo in blocks has that in a graft only.
        """
        constructor, _ = unwrapped(self.optimizer_class)
        if "eps" not in inspect.signature(constructor).parameters:
            return []
        tensors = [name for name, info in self.infos.items() if isinstance(info, ParamInfo)]
        if all(self.scales[name].eps > 0 for name in tensors):
            return []
        return [
            f"eps=0: {constructor.__name__} may divide 0 by 0 where a gradient is exactly 0, such "
            "as that of a pixel that is black in all images, and training diverges; say a small "
            "eps, such as 1e-8"
        ]

    def _check_unit_scaling(self) -> None:
        """Refuse a table of unit scaling under SGD, on a model of other gradients."""
        unit_readout = UNIT_SCALED.get(self.parametrization.name)
        if unit_readout is None or not self._by_sgd:
            return
        name = f"parametrization={self.parametrization.name}"
        if not scales_gradients(self.model):
            raise ConfigError(
                f"{name}: under SGD it is for unit-scaled operations only, which this model has "
                "not (a GPT has them by model.unit_scaling=true); take Adam, or mup"
            )
        if unit_readout != has_unit_readout(self.model):
            other = "its forward one" if unit_readout else "one of its own: take umup"
            raise ConfigError(
                f"{name}: does not fit the readout of this model, whose backward multiplier is "
                f"{other}"
            )

    @property
    def _by_sgd(self) -> bool:
        return any(scale.update_kind == UpdateKind.SGD for scale in self.scales.values())

    def _scale(self, lr: float, weight_decay_mode: str | float, **others: Any) -> None:
        self.weight_decay_mode = weight_decay_mode
        others |= {"lr": lr, "weight_decay_mode": weight_decay_mode}
        self.scales = scale(self.infos, self.parametrization, self.optimizer_rules, **others)
        self.lr = float(lr)

    def with_tuned(self, *, seed: int, lr: float, **others: Any) -> Self:
        """Copy this setup with another seed, lr, eps, weight_decay, its mode, and tune.

        The copy shares the model, which must hold no weights (`torch.device("meta")`).
        """
        other = copy.copy(self)
        other.seed = seed
        other._scale(lr, **others)
        for sentence in other._zero_eps():
            warnings.warn(sentence, stacklevel=2)
        return other

    def optimizer(self) -> Optimizer:
        """Build the optimizer over the model's param groups."""
        return build_optimizer(self.optimizer_class, self.model, self.scales)

    def fold(self) -> nn.Module:
        """Return the plain model of the same function, as a copy: see `mupl.nn.fold.folded`.

        It has the keys of `build(width)` and no hooks. So its state dict goes into a model that
        mupl never saw, and `save_pretrained` saves what `from_pretrained` loads.

        Raises:
            ConfigError: naming a multiplier that has no place in the plain model.
        """
        return folded(self.model, self._stock_values)

    def readout_norm(self) -> float | None:
        """Return the RMS -> infinity norm of the readout as it is now (`mupl.stats.readout_norm`).

        None if the model has no readout, or several. A factor of the model's own, such as
        `output_mult`, is not in it.

        Example:
            >>> from torch import nn
            >>> def build(width):
            ...     return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 10))
            >>> setup = Setup(build, width=512, base_width=128, lr=0.1)
            >>> w = nn.init.constant_(setup.model[2].weight, 0.01)  # of multiplier 1/4
            >>> round(setup.readout_norm() / 512, 6)
            0.0025
        """
        name = readout_of(self.infos)
        if name is None:
            return None
        info = self.infos[name]
        assert isinstance(info, ParamInfo)
        w = parameters(self.model, self.scales)[name]
        return float(self.scales[name].mult * readout_norm(w, info))

    def table(self) -> TensorTable:
        """List what each tensor is and got, one dict a tensor.

        `print` shows it as a table, and `pandas.DataFrame` takes it.
        """
        return scale_rows(self.infos, self.scales)

    def expected_exponents(
        self,
        t: int,
        decay: bool = False,
        along: str = "width",
        gradients: Mapping[str, float] | None = None,
        of_images: Collection[str] = (),
    ) -> dict[tuple[str, ...], Expected]:
        """Say what a coordinate check must see after t updates (`mupl.parametrization.exponents`).

        Nothing is said of updates that contain coupled weight decay (SGD's, Adam's).

        Args:
            decay: whether the optimizer decays weights apart from the gradient.
            along: "width" or "depth".
            gradients: mean |d loss / d W| of effective tensors at t, by name. An eps above
                `FELT_EPS` of it is felt; of tensors that are not among them none is.
            of_images: modules that return images, by name.

        Raises:
            ConfigError: for unit-scaled operations under SGD, whose gradients are not the loss's.
        """
        if self._by_sgd and scales_gradients(self.model):
            raise ConfigError(
                "callbacks.coordinates.predict: unit-scaled operations give SGD other gradients "
                "than the loss has; say optimizer=adam or callbacks.coordinates.predict=false"
            )
        expected = expected_exponents(
            self.infos,
            self.parametrization,
            self.optimizer_rules,
            t,
            decay,
            along,
            decay_exponent(self.weight_decay_mode),
            Seen(self._felt_eps(gradients or {}), of_images),
        )
        if not decay and any(scale.weight_decay for scale in self.scales.values()):
            of_updates = ("update", "effective", "propagating")
            expected = {key: value for key, value in expected.items() if key[0] not in of_updates}
        return expected

    def _felt_eps(self, gradients: Mapping[str, float]) -> set[str]:
        """Name the tensors whose eps is not negligible beside the gradient of w = W / mult."""
        felt = set()
        for name, size in gradients.items():
            scale = self.scales[name]
            if scale.eps > FELT_EPS * size * scale.mult * scale.grad:
                felt.add(name)
        return felt

    def __repr__(self) -> str:
        constructor = getattr(self.optimizer_class, "func", self.optimizer_class)
        parts = [f"parametrization={self.parametrization.name}, optimizer={constructor.__name__}"]
        for key in ("width", "base_width"):
            if (value := getattr(self, key)) is not None:
                parts.append(f"{key}={value}")
        return f"Setup({', '.join(parts)}, lr={self.lr:g}, {len(self.scales)} tensors)"
