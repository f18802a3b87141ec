"""One call for any model: functions of numbers or configs, models themselves, saved shapes."""

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import mupl
from mupl.initializers import Initializer, build_on_meta
from mupl.models import GPT, MLP
from mupl.nn.dropout import Dropout
from mupl.nn.multipliers import Residual
from mupl.roles import ParamInfo, Role


@dataclass(frozen=True)
class Config:
    width: int
    classes: int = 3


class Net(nn.Module):
    """A table of positions, layers, a norm, and a tensor that no module fills by itself."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.embed = nn.Embedding(11, width)
        self.pos = nn.Parameter(torch.zeros(1, 5, width))
        self.hidden = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, config.classes)


def net(width: int) -> Net:
    return Net(Config(width))


class Tied(nn.Module):
    """A readout by the embedding's matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, width)
        self.readout = nn.Linear(width, 7, bias=False)
        self.readout.weight = self.embed.weight


def rows(infos: Any) -> dict[str, tuple]:
    """What a description says, without how the values came about."""
    found = {}
    for name, info in infos.items():
        if isinstance(info, ParamInfo):
            found[name] = (info.row, info.fan_in, info.fan_out, info.m_in, info.m_out, info.m_L)
        else:
            found[name] = (info.row, info.value, info.fan_in, info.m_in, info.m_L)
    return found


# --- configs


def test_a_config_serves_as_a_width() -> None:
    expected = mupl.describe(net, 64, 16)
    config, base = Config(64), Config(16)
    assert mupl.describe(Net, config, base) == expected
    assert mupl.describe(Net, config, base, wider=Config(32)) == expected
    setup = mupl.Setup(Net, config, base_width=base, lr=0.1)
    assert setup.scales == mupl.scale(expected, "mup", "adamw", lr=0.1)
    assert "width=Config(width=64, classes=3)" in repr(setup)
    as_dict = mupl.describe(lambda c: Net(Config(**c)), {"width": 64}, {"width": 16})
    assert as_dict == expected


def test_at_the_base_a_config_needs_a_wider_one() -> None:
    base = Config(16)
    with pytest.raises(mupl.ConfigError, match="wider: the model has the sizes of its base"):
        mupl.describe(Net, base, base)
    infos = mupl.describe(Net, base, base, wider=Config(48))
    assert infos == mupl.describe(net, 16, 16)
    assert infos["hidden.weight"].role is Role.HIDDEN


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": Config(8), "base_width": 4}, "base_width=4: must be a config"),
        ({"width": 8, "base_width": Config(4)}, "must be a number, as the other"),
        ({"width": 8, "base_width": 4, "wider": Config(9)}, "wider=Config"),
        ({"width": 8, "base_width": 4, "wider": 0}, "wider=0: must be a whole number"),
        ({"width": 8}, "base_width=None: must be a whole number"),
        ({"width": 8, "base_width": 4, "delta": nn.Linear(2, 2)}, "delta: belongs to"),
        ({"width": 8, "base_width": 4, "base": "x.json"}, "base_width: base= has it already"),
        ({"width": 8, "base": 3}, "base: must be a model, what mupl.shapes returns or the path"),
        ({"width": 8, "base": "x.json"}, "base=x.json: there is no such file"),
        ({"base": nn.Linear(2, 2)}, "width=None: must be a whole number"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(mupl.ConfigError) as caught:
        mupl.describe(lambda w: nn.Linear(w, w), **arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["width", "base_width"])
def test_a_third_width_may_be_said_for_numbers_too(key: str) -> None:
    widths = {"width": 64, "base_width": 64} | {key: 64}

    def rounded(width: int) -> nn.Module:
        return nn.Linear(5, -(-width // 256) * 256)

    with pytest.raises(mupl.ConfigError, match="nothing tells what grows with width; make it use"):
        mupl.describe(rounded, **widths)
    assert mupl.describe(rounded, **widths, wider=512)["weight"].role is Role.INPUT


def test_a_model_that_forgets_its_width_is_refused_unless_it_grows_in_depth() -> None:
    def build(width: int, depth: int = 2) -> nn.Module:
        return nn.Sequential(*(nn.Linear(5, 5) for _ in range(depth)))

    with pytest.raises(mupl.ConfigError, match="make it use its width"):
        mupl.describe(build, width=64, base_width=16)
    infos = mupl.describe(build, width=64, base_width=16, depth=4, base_depth=2)
    assert infos["0.weight"].m_L == 2


# --- models that are there already

MODELS: dict[str, Callable[[int], nn.Module]] = {
    "net": net,
    "mlp": lambda width: MLP(6, 3, width),
    "gpt": lambda width: GPT(7, 8, width, depth=1, d_head=8, tied=True),
    "tied": Tied,
    "lstm": lambda width: nn.Sequential(nn.LSTM(5, width)),
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_a_model_is_described_as_its_function_is(build: Any) -> None:
    expected = mupl.describe(build, 64, 16)
    live = mupl.describe(build(64), base=build(16), delta=build(32))
    assert rows(live) == rows(expected)
    assert rows(mupl.describe(build(64), base=build(16))) == rows(expected)
    with torch.device("meta"):
        base, delta = build(16), build(32)
    without_values = mupl.describe(
        build(64), base=base, delta=delta, keep=["pos"] if build is net else []
    )
    assert rows(without_values) == rows(expected)
    for name, info in expected.items():
        if not isinstance(info, ParamInfo) or info.own is None or name == "pos":
            continue
        for found in (live[name], without_values[name]):
            assert isinstance(found, ParamInfo)
            assert found.own is not None
            assert found.init == info.init, name
            assert found.own.ratio == info.own.ratio, name


def test_a_model_is_initialised_in_place_and_as_its_function_is() -> None:
    torch.manual_seed(0)
    expected = mupl.Setup(net, 64, base_width=16, lr=0.1, parametrization="mup_table3", seed=0)
    torch.manual_seed(0)
    model = net(64)
    setup = mupl.Setup(model, base=net(16), delta=net(32), lr=0.1, parametrization="mup_table3")
    assert setup.model is model
    for name, w in expected.model.named_parameters():
        assert torch.equal(model.get_parameter(name), w), name
    rates = [[group["lr"] for group in s.optimizer().param_groups] for s in (setup, expected)]
    assert rates[0] == rates[1]
    assert "width" not in repr(setup)


def test_at_the_base_a_model_stays_what_it_is() -> None:
    model = net(16)
    before = copy.deepcopy(model.state_dict())
    mupl.Setup(model, base=net(16), delta=net(32), lr=0.1)
    for name, w in before.items():
        assert torch.equal(model.state_dict()[name], w)
    with pytest.raises(mupl.ConfigError, match=r"wider: .*beside a base model: delta="):
        mupl.Setup(net(16), base=net(16), lr=0.1)


def test_values_that_modules_do_not_fill_themselves_are_measured() -> None:
    def build(width: int) -> nn.Module:
        layer = nn.Linear(width, width)
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.constant_(layer.bias, 0.5)
        return layer

    infos = mupl.describe(build(256), base=build(64))
    assert infos["bias"].init == Initializer("constant", 0.5)
    assert infos["weight"].init.name == "own"
    assert infos["weight"].init.std == pytest.approx(0.02, rel=0.05)
    torch.manual_seed(0)
    model = mupl.Setup(build(256), base=build(64), parametrization="sp", lr=0.1).model
    assert model.get_parameter("weight").std().item() == pytest.approx(0.02 / 2, rel=0.05)


def test_a_base_without_values_must_be_filled_by_its_modules() -> None:
    with torch.device("meta"):
        base = net(16)
    with pytest.raises(mupl.ConfigError) as caught:
        mupl.describe(net(64), base=base)
    assert str(caught.value) == (
        "base: is on the meta device, and no module's reset_parameters fills 'pos'; build the base "
        "with values, or say init= or keep="
    )
    zeros = {"pos": {"name": "constant", "mean": 0.0}}
    assert mupl.describe(net(64), base=base, init=zeros)["pos"].own is None


def test_a_whole_description_needs_no_values() -> None:
    with torch.device("meta"):
        model, base, delta = (MLP(6, 3, width) for width in (10**6, 16, 32))
    setup = mupl.Setup(model, base=base, delta=delta, lr=0.1)
    assert setup.model.get_parameter("layers.1.weight").is_meta
    assert setup.infos["layers.1.weight"].m_in == 10**6 / 16


def test_frozen_tensors_of_a_model_are_kept() -> None:
    model = net(64)
    model.hidden.requires_grad_(False)
    before = model.hidden.weight.clone()
    with pytest.warns(UserWarning, match="kept as the model made them"):
        mupl.Setup(model, base=net(16), parametrization="mup_table3", lr=0.1)
    assert torch.equal(model.hidden.weight, before)


def test_a_seed_that_changes_nothing_is_refused() -> None:
    with pytest.raises(mupl.ConfigError, match=r"seed=3: would change nothing.*manual_seed"):
        mupl.Setup(net(64), base=net(16), lr=0.1, seed=3)
    init = {"hidden.weight": {"name": "normal", "std": 1.0}}
    drawn = []
    for seed in (3, 3, 4):
        setup = mupl.Setup(net(64), base=net(16), lr=0.1, init=init, seed=seed)
        drawn.append(setup.model.get_parameter("hidden.weight"))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])

    def with_dropout(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(3, width), Dropout(0.5))

    mupl.Setup(with_dropout(8), base=with_dropout(4), lr=0.1, seed=3)


def test_a_model_whose_names_differ_from_the_base_lists_them() -> None:
    base = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model = nn.Sequential(nn.Linear(3, 8, bias=False), nn.Linear(8, 8), nn.PReLU(8))
    with pytest.raises(mupl.ConfigError) as caught:
        mupl.describe(model, base=base)
    message = str(caught.value)
    assert "the base model alone has '0.bias', '2.bias'" in message
    with pytest.raises(mupl.ConfigError, match=r"the base model has not '0.bias', '2.bias'"):
        mupl.describe(base, base=model)


def test_arguments_of_functions_are_refused_beside_a_model() -> None:
    with pytest.raises(mupl.ConfigError, match="width: is for a function; the model has its own"):
        mupl.describe(net(64), 64, base=net(16))
    with pytest.raises(mupl.ConfigError, match="base_width: is for a function"):
        mupl.shapes(net(16), 16)
    with pytest.raises(mupl.ConfigError, match="delta: belongs to a base model"):
        mupl.shapes(net, 16, delta=net(32))
    with pytest.raises(mupl.ConfigError, match="delta: must be a model as base is, not a int"):
        mupl.shapes(net(16), delta=32)  # type: ignore[arg-type]
    with pytest.raises(mupl.ConfigError, match="depth: is for a function"):
        mupl.shapes(net(16), depth=2)


# --- saved shapes


class NoMoreCalls(RuntimeError):
    """A base model was built although its shapes were saved."""


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_saved_shapes_describe_as_the_function_does(build: Any, tmp_path: Path) -> None:
    expected = mupl.describe(build, 64, 16)
    path = tmp_path / "base.json"
    mupl.shapes(build, 16).save(path)

    def only_once(width: int) -> nn.Module:
        if width != 64:
            raise NoMoreCalls
        return build(width)

    assert mupl.describe(only_once, 64, base=path) == expected
    assert mupl.describe(only_once, 64, base=str(path)) == expected
    assert rows(mupl.describe(build(64), base=path)) == rows(expected)
    setup = mupl.Setup(only_once, 64, base=path, lr=0.1)
    assert setup.scales == mupl.scale(expected, "mup", "adamw", lr=0.1)
    assert pickle.loads(pickle.dumps(setup.infos)) == expected


def test_shapes_of_models_may_be_saved_too(tmp_path: Path) -> None:
    mupl.shapes(net(16), delta=net(32)).save(tmp_path / "base.json")
    assert rows(mupl.describe(net(16), base=tmp_path / "base.json")) == rows(
        mupl.describe(net, 16, 16)
    )


def test_a_saved_file_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    found = mupl.shapes(Tied, 16, 64)
    found.save(path)
    lines = path.read_text().splitlines()
    assert max(map(len, lines)) < 300
    saved = json.loads(path.read_text())
    assert (saved["format"], saved["version"]) == ("mupl shapes", 1)
    row = saved["tensors"]["embed.weight"]
    assert row["shapes"] == [[7, 16], [7, 64]]
    assert row["names"] == ["embed.weight", "readout.weight"]
    assert row["init"] == {"name": "normal", "mean": 0.0, "std": 1.0}
    assert mupl.Shapes.load(path) == found


def spoil(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


TORN = {"shapes": [[2], [2, 2]], "rms": 0.0, "init": None, "random": True}
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda path: path.write_text(path.read_text()[:-20]), "cannot be read as JSON"),
    "binary": (lambda path: path.write_bytes(b"\xff\xfe\x00"), "cannot be read as JSON"),
    "foreign": (lambda path: path.write_text('{"a": 1}'), "is no file that mupl.shapes"),
    "list": (lambda path: path.write_text("[1]"), "is no file that mupl.shapes"),
    "newer": (lambda path: spoil(path, version=2), "is of version 2 of the format, not 1"),
    "no tensors": (lambda path: spoil(path, tensors=3), "is damaged (AttributeError"),
    "no shapes": (lambda path: spoil(path, tensors={"a": {}}), "is damaged (KeyError: 'init'"),
    "ranks": (
        lambda path: spoil(path, tensors={"a": TORN}),
        "is damaged (ValueError: shapes ((2,), (2, 2))",
    ),
    "heads": (
        lambda path: spoil(path, heads={"a": {"sizes": [1.5], "scale": None}}),
        "is damaged (TypeError: (1.5,) are",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_is_one_clear_error(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    mupl.shapes(net, 16).save(path)
    change, message = DAMAGES[damage]
    change(path)
    with pytest.raises(mupl.ConfigError) as caught:
        mupl.describe(net, 64, base=path)
    assert str(caught.value).startswith(f"base={path}: {message}")
    assert "\n" not in str(caught.value)


def test_saved_shapes_of_another_model_list_its_names(tmp_path: Path) -> None:
    mupl.shapes(net, 16).save(tmp_path / "base.json")
    with pytest.raises(mupl.ConfigError, match=r"base model has not 'weight'.*alone has 'pos'"):
        mupl.describe(lambda w: nn.Linear(w, w, bias=False), 64, base=tmp_path / "base.json")


# --- depth


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.residual = Residual()


def deep(width: int, depth: int) -> nn.Module:
    blocks = (Block(width) for _ in range(depth))
    return nn.Sequential(nn.Linear(3, width), *blocks, nn.LayerNorm(width))


class Deep(nn.Module):
    """Blocks whose index does not shift what follows."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.readout = nn.Linear(width, 2)


def test_a_base_of_fewer_blocks_describes_a_deeper_model(tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    expected = mupl.describe(Deep, 64, 16, depth=6, base_depth=2)
    mupl.shapes(Deep, 16, depth=2).save(path)
    from_file = mupl.describe(Deep, 64, base=path, depth=6)
    assert rows(from_file) == rows(expected)
    assert from_file["blocks.5.residual"].m_L == 3
    assert from_file["readout.weight"].m_L == 1
    models = mupl.describe(Deep(64, 6), base=Deep(16, 2), delta=Deep(32, 2), depth=6, base_depth=2)
    assert rows(models) == rows(expected)
    setup = mupl.Setup(Deep, 64, base=path, depth=6, parametrization="completep", lr=0.1)
    scales = mupl.scale(from_file, "completep", "adamw", lr=0.1)
    assert setup.scales == scales
    assert scales["blocks.5.residual"].mult == pytest.approx(1 / 3)


def test_own_values_that_depend_on_depth_get_the_size_of_the_base() -> None:
    class Shrinks(Deep):
        def __init__(self, width: int, depth: int) -> None:
            super().__init__(width, depth)
            for block in self.blocks:
                nn.init.normal_(block.layer.weight, std=0.1 * depth**-0.5)

    base = mupl.shapes(Shrinks, 16, depth=2)
    for width in (16, 64):  # at the base width too
        infos = mupl.describe(Shrinks, width, base=base, depth=8)
        info = infos["blocks.5.layer.weight"]
        assert isinstance(info, ParamInfo)
        assert info.own is not None
        assert info.own.ratio == pytest.approx(2)
    assert mupl.describe(Shrinks, 16, base=base, depth=2)["readout.weight"].own.certain


def test_a_depth_that_does_not_fit_is_named() -> None:
    base = mupl.shapes(Deep, 16, depth=2)
    with pytest.raises(mupl.ConfigError, match="base_depth=3: base= was made with depth=2"):
        mupl.describe(Deep, 64, base=base, depth=6, base_depth=3)
    with pytest.raises(mupl.ConfigError, match=r"depth=6, base_depth=2: .*as many blocks"):
        mupl.describe(Deep(64, 2), base=Deep(16, 2), depth=6, base_depth=2)
    with pytest.raises(mupl.ConfigError, match="depth: needs base_depth"):
        mupl.describe(Deep(64, 6), base=Deep(16, 2), depth=6)
    with pytest.raises(mupl.ConfigError, match=r"the base model has not 'blocks.2.layer.weight'"):
        mupl.describe(Deep(64, 6), base=Deep(16, 2))


# --- roles that have to be said


class Router(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, width))


class Unsure(nn.Module):
    """Tensors whose role shapes do not tell, and what they are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Router(width) for _ in range(2))
        self.norm = nn.LayerNorm((width, 2, 2))
        self.pos_embed = nn.Parameter(torch.zeros(1, 9, width))
        self.positions = nn.Parameter(torch.randn(9, width))
        self.projection = nn.Parameter(torch.randn(width, 5))
        self.A_log = nn.Parameter(torch.randn(width, 6))
        self.expert_bias = nn.Parameter(torch.randn(4, width))
        self.weight_g = nn.Parameter(torch.ones(width, 1))  # as nn.utils.weight_norm has it
        self.lora_A = nn.Parameter(torch.randn(4, width))
        self.lora_B = nn.Parameter(torch.zeros(width, 4))
        self.readout = nn.utils.parametrizations.weight_norm(nn.Linear(width, 5))
        self.inner = nn.utils.parametrizations.weight_norm(nn.Linear(width, width))


ROLES = {
    "layers.*.weight": "output",
    "positions": "input",
    "projection": "output",
    "A_log": "input",
    "expert_bias": "input",
    "weight_g": "input",
    "lora_A": "output",
    "lora_B": "input",
    "readout.parametrizations.weight.original1": "output",
    "inner.parametrizations.weight.original0": "input",
}


def test_all_roles_are_proposed_at_once_and_can_be_pasted() -> None:
    with pytest.raises(mupl.ConfigError) as caught:
        mupl.describe(Unsure, 64, 16)
    message = str(caught.value)
    said = message[message.index("roles={") + len("roles=") : message.index("}") + 1]
    assert eval(said) == {
        key.replace("weight.original", "weight.original"): ROLES[key] for key in eval(said)
    }
    assert set(eval(said)) == set(ROLES)
    infos = mupl.describe(Unsure, 64, 16, roles=eval(said))
    assert (infos["layers.1.weight"].m_in, infos["layers.1.weight"].m_out) == (4, 1)
    assert (infos["A_log"].m_in, infos["A_log"].m_out) == (1, 4)
    assert (infos["norm.weight"].role, infos["norm.weight"].m_out) == (Role.INPUT, 4)
    assert (infos["pos_embed"].role, infos["pos_embed"].fan_out) == (Role.INPUT, 64)


# --- weights that were loaded before initialize_


def trained(model: nn.Module) -> dict[str, Tensor]:
    """A state dict such as training leaves."""
    generator = torch.Generator().manual_seed(1)
    state = model.state_dict()
    return {k: v + 0.05 * torch.randn(v.shape, generator=generator) for k, v in state.items()}


def scales_of(build: Any, table: str = "mup_table3", **options: Any) -> Any:
    infos = mupl.describe(build, 64, 16, **options)
    return mupl.scale(infos, table, "adam", lr=0.1)


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_weights_that_are_rescaled_are_told(assign: bool) -> None:
    model = net(64)
    model.load_state_dict(trained(model), assign=assign)
    with pytest.warns(UserWarning, match="do not hold values that the model starts") as caught:
        mupl.initialize_(model, scales_of(net))
    (warning,) = caught
    message = str(warning.message)
    assert message.startswith("initialize_: 'pos', 'norm.weight', 'norm.bias' do not hold")
    assert "were rescaled; say keep= for tensors that shall act as they are" in message
    assert "'readout.weight'" in message


def test_loaded_weights_are_seen_by_their_size() -> None:
    def build(width: int) -> nn.Module:
        return nn.Linear(width, width, bias=False)

    model = build(64)
    model.load_state_dict({"weight": 10 * model.weight.detach()})
    with pytest.warns(UserWarning, match="initialize_: 'weight' do not hold"):
        mupl.initialize_(model, scales_of(build))


def test_weights_that_are_kept_or_loaded_afterwards_are_not_told() -> None:
    model = net(64)
    state = trained(model)
    model.load_state_dict(state)
    mupl.initialize_(model, scales_of(net, keep=["*"]))
    assert torch.equal(model.readout.weight, state["readout.weight"])
    later = mupl.initialize_(net(64), scales_of(net))
    later.load_state_dict(state)
    mupl.initialize_(later, scales_of(net))  # the same numbers: nothing is changed


def test_at_the_base_width_loaded_weights_stay_without_a_word() -> None:
    model = net(16)
    model.load_state_dict(trained(model))
    before = model.readout.weight.clone()
    mupl.initialize_(model, mupl.scale(mupl.describe(net, 16, 16), "mup", "adam", lr=0.1))
    assert torch.equal(model.readout.weight, before)


# --- memory


class LargestAllocation(TorchDispatchMode):
    """Notes the number of entries of the largest tensor that is written to.

    Memory that is reserved, as for a parameter before it is put on the meta device, takes none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        reserves = func.overloadpacket.__name__ in ("empty", "detach", "alias")
        if isinstance(out, Tensor) and not out.is_meta and not reserves:
            self.entries = max(self.entries, out.numel())
        return out


class Reads(nn.Module):
    """Reads values of parameters in its constructor in many ways."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.readout = nn.Linear(width, 3)
        weight = self.hidden.weight.detach()
        assert weight.abs().sum() > 0
        assert not torch.isnan(weight).any() or True
        self.largest = weight.max().item()
        self.norm = float(weight.norm())
        self.same = torch.equal(weight, weight) and torch.allclose(weight, weight)
        nn.init.constant_(self.readout.weight, self.norm)


@pytest.mark.parametrize("build", [Reads, net, MODELS["gpt"]])
def test_the_described_model_takes_no_memory(build: Any) -> None:
    with LargestAllocation() as largest:
        infos = mupl.describe(build, 512, 16)
    assert infos.warnings == []
    assert largest.entries <= 512 * 16  # less than a matrix of 512 x 512 has


def test_what_follows_from_values_that_were_read_is_measured() -> None:
    info = mupl.describe(Reads, 64, 16)["readout.weight"]
    assert info.own is not None
    assert info.own.ratio is None
    torch.manual_seed(0)
    before = Reads(64)
    setup = mupl.Setup(Reads, 64, base_width=16, parametrization="sp", lr=0.1)
    assert setup.model.readout.weight.mean().item() == pytest.approx(
        mupl.describe(Reads, 64, 16)["readout.weight"].own.rms / 2, rel=1e-5
    )
    assert before.readout.weight.mean() > 3 * setup.model.readout.weight.mean()


def test_a_constructor_that_waits_for_a_value_ends() -> None:
    class Waits(nn.Linear):
        def __init__(self, width: int) -> None:
            super().__init__(width, width)
            with torch.no_grad():
                while self.weight.sum() > 0.5:
                    nn.init.normal_(self.weight, std=0.01)

    _, _, on_meta = build_on_meta(lambda: Waits(4))
    assert not on_meta


def test_a_constructors_own_error_is_not_hidden() -> None:
    def build() -> nn.Module:
        raise KeyError("width")

    with pytest.raises(KeyError, match="width"):
        build_on_meta(build)
