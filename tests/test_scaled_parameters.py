"""Multipliers belong to the use of a tensor, and whatever is done to a model keeps them."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import mupl
from mupl.models import GPT, MLP
from mupl.nn.layers import ScaledLinear
from mupl.nn.scaled_parameters import effective, hold_scale, use_scaled_parameters
from mupl.parametrization.tables import TABLES
from tests.changes import COPIES

FOR_ADAM = [name for name in TABLES if not name.startswith("umup")]


class Conv1D(nn.Module):
    """A matrix (in, out), as GPT-2 has."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, 3 * width))
        self.bias = nn.Parameter(torch.randn(3 * width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.flatten(0, 1), self.weight).view(*x.shape[:2], -1)


class Zoo(nn.Module):
    """Tensors (batch 2, 5 tokens, 8) through layers of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(5, 8))
        self.embedding = nn.Embedding(7, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.fused = Conv1D(8)
        self.ours = ScaledLinear(8, 8)
        self.readout = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions
        x = x + self.lstm(x)[0]
        x = x + self.attention(x, x, x)[0]
        x = self.norm(self.encoder(x))
        x = x + self.conv(x.mT).mT
        x = sum(self.fused(x).chunk(3, -1))
        return self.readout(self.ours(x))


TOKENS = torch.arange(10).view(2, 5) % 7


def scaled(model: nn.Module, mult: float, grad: float = 1.0) -> nn.Module:
    """The model with another multiplier for each of its tensors."""
    for path, module in list(model.named_modules()):
        for leaf, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            mult = -1.1 * mult
            if isinstance(module, ScaledLinear):
                module.set_scale(leaf, mult, grad)
            else:
                hold_scale(module, leaf, mult, grad)
                use_scaled_parameters(module)
            if path.endswith("out_proj"):
                use_scaled_parameters(model.get_submodule(path.rpartition(".")[0]))
    return model


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    """A model with multipliers, and a plain one of its effective tensors."""
    torch.manual_seed(0)
    plain = Zoo().double()
    model = scaled(copy.deepcopy(plain), 0.3)
    with torch.no_grad():
        for name, w in plain.named_parameters():
            path, _, leaf = name.rpartition(".")
            w.copy_(effective(model.get_submodule(path), leaf))
    return model, plain


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    model(TOKENS).square().sum().backward()
    return {name: w.grad for name, w in model.named_parameters()}


def test_every_kind_of_module_computes_with_effective_tensors(pair: tuple) -> None:
    model, plain = pair
    torch.testing.assert_close(model(TOKENS), plain(TOKENS))
    expected = gradients(plain)
    for name, gradient in gradients(model).items():
        path, _, leaf = name.rpartition(".")
        held = getattr(model.get_submodule(path), f"{leaf}_scale")
        torch.testing.assert_close(gradient, held.mult * expected[name], atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(model.eval()(TOKENS), plain.eval()(TOKENS))
    with torch.no_grad():  # where torch would take the fast path of a transformer
        torch.testing.assert_close(model(TOKENS), plain(TOKENS))


def test_gradient_factors_multiply_gradients(pair: tuple) -> None:
    model, _ = pair
    before = gradients(model)
    for name, gradient in gradients(scaled(model, 0.3, grad=5.0)).items():
        torch.testing.assert_close(gradient, 5 * before[name])


def test_names_and_tensors_are_those_of_the_plain_model(pair: tuple) -> None:
    model, plain = pair
    names = [name for name, _ in plain.named_parameters()]
    assert [name for name, _ in model.named_parameters()] == names
    before = {name: w.clone() for name, w in model.named_parameters()}
    model(TOKENS)
    with pytest.raises(RuntimeError):
        model.conv(torch.ones(3))  # an error within the forward pass
    for name, w in model.named_parameters():
        assert w is model.get_parameter(name)
        assert torch.equal(w, before[name])


def test_a_state_dict_that_is_saved_after_an_interrupt_is_the_plain_one(pair: tuple) -> None:
    model, _ = pair
    before = copy.deepcopy(model.state_dict())

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handle = model.conv.register_forward_pre_hook(interrupt)  # after w has been replaced
    with pytest.raises(KeyboardInterrupt):
        model(TOKENS)
    handle.remove()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("change", COPIES, ids=lambda f: f.__name__)
def test_copies_and_averages_are_the_same_function(pair: tuple, change: Any) -> None:
    model, _ = pair
    expected = model(TOKENS)
    torch.testing.assert_close(change(model, TOKENS)(TOKENS), expected)


class Compilable(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Embedding(7, 8), Conv1D(8), nn.LayerNorm(24), ScaledLinear(24, 8), nn.Linear(8, 3)
        )


@pytest.mark.parametrize("grad", [1.0, 3.0])
def test_compiled_and_exported_models_are_the_same_function(grad: float) -> None:
    torch.manual_seed(0)
    model = scaled(Compilable(), 0.3, grad)
    plain = copy.deepcopy(model)  # the one that is compiled has not been called
    expected = plain(TOKENS)
    gradient = gradients(plain)["0.weight"].clone()
    torch.compiler.reset()  # else another number than in an earlier model is taken for a variable
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    torch.testing.assert_close(compiled(TOKENS), expected)
    torch.testing.assert_close(gradients(compiled)["_orig_mod.0.weight"], gradient)
    assert counter.frame_count == 1  # not once more for a module that has noted that it acts
    if grad == 1:
        exported = torch.export.export(model, (TOKENS,)).module()
        torch.testing.assert_close(exported(TOKENS), expected)


def build(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))


@pytest.mark.parametrize("build", [build, lambda w: MLP(6, 3, w)])
def test_a_state_dict_knows_its_multipliers(build: Any) -> None:
    def model(base_width: int, width: int = 32) -> nn.Module:
        return mupl.Setup(build, width, base_width=base_width, lr=0.1).model

    state = model(8).state_dict()
    assert model(8).load_state_dict(state)
    with pytest.raises(mupl.ConfigError, match=r"multiplier 0\.25 of a tensor that has 0\.5 here"):
        model(16).load_state_dict(state)
    for plain in (build(32), model(32)):
        with pytest.raises(RuntimeError, match=r"Unexpected key.*weight_scale"):
            plain.load_state_dict(state)
        with pytest.raises(RuntimeError, match=r"Missing key.*weight_scale"):
            model(8).load_state_dict(plain.state_dict())


@pytest.mark.parametrize("table", FOR_ADAM)
def test_a_copy_of_an_initialised_model_can_be_initialised(table: str) -> None:
    infos = mupl.describe(build, 32, 8)
    scales = mupl.scale(infos, table, "adam", lr=0.1)
    model = mupl.initialize_(build(32), scales)
    x = torch.randn(4, 6)
    expected = model(x)
    other = mupl.scale(infos, "sp", "adam", lr=0.1)
    mupl.initialize_(copy.deepcopy(model), other)
    assert torch.equal(model(x), expected)
    assert torch.equal(mupl.initialize_(copy.deepcopy(model), scales)(x), expected)


def test_a_multiplier_that_cannot_act_is_refused() -> None:
    class Listed(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.list = nn.ParameterList([torch.randn(width, 3)])

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.list[0]

    roles = {"*": "output"}
    with pytest.raises(mupl.ConfigError, match=r"list\.0: its multiplier 0\.5 cannot act"):
        mupl.Setup(Listed, 8, base_width=4, lr=0.1, roles=roles)
    setup = mupl.Setup(Listed, 8, base_width=4, lr=0.1, roles=roles, parametrization="mup_table3")
    assert setup.scales["list.0"].mult == 1


class ReadsAnother(nn.Module):
    """Reads the weight of a layer that it does not call."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.readout = nn.Linear(width, 3, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(self.embedding(tokens), self.readout.weight)


@pytest.mark.parametrize("table", ["mup", "mup_table3"])
def test_a_multiplier_that_does_not_act_is_refused_at_the_first_step(table: str) -> None:
    setup = mupl.Setup(ReadsAnother, 32, base_width=8, lr=0.1, parametrization=table)
    optimizer = setup.optimizer()
    setup.model(TOKENS).square().sum().backward()
    if table == "mup_table3":
        optimizer.step()
        return
    with pytest.raises(
        mupl.ConfigError, match=r"readout\.weight: its multiplier 0\.25 does not act"
    ):
        optimizer.step()


# Ties


class Tied(nn.Module):
    """Reads out by the matrix of its embedding; the readout may come first."""

    def __init__(self, width: int, readout_first: bool = False) -> None:
        super().__init__()
        if readout_first:
            self.readout = nn.Linear(width, 11, bias=False)
        self.embedding = nn.Embedding(11, width)
        self.hidden = nn.Linear(width, width)
        if not readout_first:
            self.readout = nn.Linear(width, 11, bias=False)
        self.readout.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(self.hidden(self.embedding(tokens)).tanh())


def first(width: int) -> nn.Module:
    return Tied(width, readout_first=True)


TIED_TABLES = ["mup", "mup_table9", "unit_init", "cerebras", "mean_field"]


@pytest.mark.parametrize("build", [Tied, first])
@pytest.mark.parametrize("table", TIED_TABLES)
@pytest.mark.parametrize("width", [8, 32])
def test_a_tied_readout_has_a_multiplier_of_its_own(build: Any, table: str, width: int) -> None:
    infos = mupl.describe(build, width, 8)
    tensor = "readout.weight" if build is first else "embedding.weight"
    assert [name for name in infos if "hidden" not in name] == [tensor, "readout"]
    assert infos[tensor].row == "input_embedding"
    scales = mupl.scale(infos, table, "adam", lr=0.1)
    model = build(width)
    own = model.embedding.weight.detach().clone()
    mupl.initialize_(model, scales)
    assert model.readout.weight is model.embedding.weight
    x = torch.randn(3, width)
    torch.testing.assert_close(model.embedding(torch.arange(11)), own)
    torch.testing.assert_close(model.readout(x), F.linear(x, own) / (width / 8))
    groups = mupl.param_groups(model, scales)
    assert sum(len(group["params"]) for group in groups) == 3


def test_tied_formulations_of_mup_follow_one_trajectory() -> None:
    def losses(table: str) -> Tensor:
        torch.manual_seed(0)
        setup = mupl.Setup(Tied, 32, base_width=8, lr=0.01, eps=1e-3, parametrization=table)
        model = setup.model.double()
        optimizer = setup.optimizer()
        found = []
        for step in range(20):
            tokens = (torch.arange(30) * (step + 3)) % 11
            loss = F.cross_entropy(model(tokens), (tokens + 1) % 11)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return torch.stack(found)

    reference = losses("mup")
    assert reference[-1] < reference[0]
    for table in ("mup_table9", "unit_init", "mean_field"):
        torch.testing.assert_close(losses(table), reference, atol=1e-5, rtol=0)


@pytest.mark.parametrize("build", [Tied, first])
def test_a_table_that_cannot_tie_is_refused(build: Any) -> None:
    with pytest.raises(mupl.ConfigError) as caught:
        mupl.Setup(build, 32, base_width=8, lr=0.1, parametrization="mup_table3")
    assert "'readout' reads out by" in str(caught.value)
    assert "so they cannot be one tensor" in str(caught.value)


def rows(build: Any, widths: tuple[int, ...], **options: Any) -> Any:
    tokens = torch.arange(40) % 11
    batches = [(tokens, (tokens * tokens + 1) % 11)] * 3
    return mupl.coord_check(
        build, widths, batches, base_width=widths[0], lr=0.01, seeds=range(4), **options
    )


def test_a_coordinate_check_judges_the_tied_readout() -> None:
    class WithoutMultiplier(Tied):
        """Undoes what mupl finds: what an untied rule would make of the readout."""

        def forward(self, tokens: Tensor) -> Tensor:
            h = self.hidden(self.embedding(tokens)).tanh()
            return self.readout(h * (h.shape[-1] / 64))

    widths = (64, 128, 256, 512)
    table = mupl.verdict(rows(Tied, widths))
    outputs = table[(table["kind"] == "output") & (table["name"] == "readout")]
    assert len(outputs) == 3
    assert (table["verdict"] == "pass").all(), table[table["verdict"] != "pass"]
    wrong = mupl.verdict(rows(WithoutMultiplier, widths))
    failed = wrong[wrong["verdict"] == "fail"]
    assert "readout" in set(failed["name"])


def test_shared_layers_of_one_role_have_one_scale_in_every_use() -> None:
    class Shared(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.a = nn.Linear(width, 5)
            self.b = nn.Linear(width, 5)
            self.b.weight = self.a.weight
            self.again = self.a

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x) + self.again(x)

    setup = mupl.Setup(Shared, 32, base_width=8, lr=0.1)
    assert list(setup.infos) == ["a.weight", "a.bias", "b.bias"]
    x = torch.randn(3, 32)
    w = setup.model.a.weight
    for layer in (setup.model.a, setup.model.b):
        torch.testing.assert_close(layer(x), F.linear(x, w / 4, layer.bias))


def test_what_cannot_be_shared_is_refused() -> None:
    class Mixed(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.hidden = nn.Linear(width, width)
            self.other = nn.Linear(width, width)
            self.other.weight = self.hidden.weight

    with pytest.raises(mupl.ConfigError, match=r"'hidden.weight' \(hidden\), 'other.weight' \(inp"):
        mupl.describe(Mixed, 8, 4, roles={"other.weight": "input"})

    class Twice(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.a = nn.Linear(width, 5)
            self.b = nn.Linear(width, 5)
            self.b.weight = nn.Parameter(self.a.weight.data)

    with pytest.raises(mupl.ConfigError, match="two parameters of one memory"):
        mupl.describe(Twice, 8, 4)


@pytest.mark.parametrize("table", TIED_TABLES)
def test_a_tied_gpt_reads_out_by_the_effective_embedding(table: str) -> None:
    def build(width: int) -> nn.Module:
        return GPT(7, 8, width, depth=1, d_head=8, tied=True)

    def logits(table: str) -> Tensor:
        return mupl.Setup(build, 32, base_width=16, lr=0.1, parametrization=table).model(TOKENS)

    torch.testing.assert_close(logits(table), logits("mup"), atol=1e-5, rtol=1e-5)
